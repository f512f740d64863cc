"""The file of authorities that a process trusts while it is pointed here: its own, and the workspace's.

``REQUESTS_CA_BUNDLE`` replaces what a process trusts otherwise, so all of that must be in the file as well.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

from tunesmith.storage.atomic import write_text

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def write_bundle(folder: Path, certificate: Path, caller: Mapping[str, str], certifi: str | None = None) -> Path:
    """Write the bundle, below ``folder``, and return its path. It is named by its content, so it is written once.

    Args:
        folder: of the Azure face.
        certificate: the workspace's authority.
        caller: the variables of the process; the files they name are what it trusts.
        certifi: the bundle of the process's own Python, which ``requests`` takes where no variable names one.
    """
    named = [Path(caller[name]) for name in VARIABLES if caller.get(name)]
    system = [Path(path) for path in (ssl.get_default_verify_paths().cafile, *SYSTEM_FILES) if path]
    sources = [certificate, *named, *([Path(certifi)] if certifi else []), *system]
    blocks = list(dict.fromkeys(block for source in sources for block in _certificates(source)))
    text = "".join(f"{block}\n" for block in blocks)
    path = folder / "bundles" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.pem"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_text(path, text, mode=0o600)
    return path


def _certificates(source: Path) -> Iterable[str]:
    try:
        text = source.read_text("utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for part in text.split(BEGIN)[1:]:
        body, separator, _ = part.partition(END)
        if separator:
            found.append(f"{BEGIN}{body.replace(chr(13), '')}{END}")
    return found
