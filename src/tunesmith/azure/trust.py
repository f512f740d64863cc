"""The authorities that a process trusts while it is pointed here: its own, and the workspace's.

``REQUESTS_CA_BUNDLE`` replaces what a process trusts otherwise, so all of that must be there as well. It is there
twice: as one file, which most programs ask for, and as a folder. A file is read whole for every new connection pool,
which takes from 0.05 to 0.1 seconds, and Azure's SDK makes many; of a folder only what is needed is read.
"""

from __future__ import annotations

import hashlib
import ssl
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import AlreadyExists
from tunesmith.storage.atomic import new_folder, write_text

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, slots=True)
class Trust:
    """The same authorities in two forms."""

    file: Path
    """One after the other, PEM."""
    folder: Path
    """One file each, named as OpenSSL looks for it; the file, where a certificate cannot be read."""


def write_trust(folder: Path, certificate: Path, caller: Mapping[str, str], certifi: str | None = None) -> Trust:
    """Write what to trust below ``folder``. It is named by its content, so it is written once.

    Args:
        folder: of the Azure face.
        certificate: the workspace's authority.
        caller: the variables of the process; the files and folders they name are what it trusts.
        certifi: the bundle of the process's own Python, which ``requests`` takes where no variable names one.
    """
    named = [Path(caller[name]) for name in VARIABLES if caller.get(name)]
    system = [Path(path) for path in (ssl.get_default_verify_paths().cafile, *SYSTEM_FILES) if path]
    sources = [certificate, *named, *([Path(certifi)] if certifi else []), *system]
    blocks = list(dict.fromkeys(block for source in sources for block in _certificates(source)))
    text = "".join(f"{block}\n" for block in blocks)
    place = folder / "bundles"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    file, parts = place / f"{name}.pem", place / name
    if not file.exists():
        write_text(file, text, mode=0o600)
    if not parts.is_dir() and not _write_folder(parts, blocks):
        parts = file
    return Trust(file, parts)


def _write_folder(folder: Path, blocks: list[str]) -> bool:
    """Write each certificate to a file of its own; whether all of them could be read."""
    # Imported here: what every certificate is read with takes its time, and the folder is nearly always there.
    from cryptography import x509

    from tunesmith.azure.subject_hash import subject_hash

    taken: Counter[str] = Counter()
    try:
        with new_folder(folder) as aside, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old authorities that break a rule
            for block in blocks:
                name = subject_hash(x509.load_pem_x509_certificate(block.encode()))
                (aside / f"{name}.{taken[name]}").write_text(f"{block}\n", encoding="ascii")
                taken[name] += 1
    except ValueError:
        return False
    except AlreadyExists:
        pass  # another process was first
    return True


def _certificates(source: Path) -> Iterator[str]:
    for path in sorted(source.iterdir()) if source.is_dir() else [source]:
        try:
            text = path.read_text("utf-8", errors="replace")
        except OSError:
            continue
        for part in text.split(BEGIN)[1:]:
            body, separator, _ = part.partition(END)
            if separator:
                yield f"{BEGIN}{body.replace(chr(13), '')}{END}"
