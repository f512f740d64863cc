"""The workspace's secrets: its token, the key that encrypts, and comparing without leaking time.

Knows nothing of endpoints. What must be shown again (an endpoint's keys) is encrypted; what only has to be recognised
is hashed. Hashes are plain SHA-256: every secret here is 256 random bits, so there is nothing to guess.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tunesmith.errors import AlreadyExists, Failure
from tunesmith.storage.atomic import write_text
from tunesmith.storage.paths import WorkspacePaths


class Secrets:
    """Opens the secrets of a workspace, and makes them where they are missing.

    Both files are for the owner alone (0600); one that became readable for others is closed again.
    """

    def __init__(self, paths: WorkspacePaths) -> None:
        self._paths = paths
        self._token: str | None = None
        self._key: bytes | None = None

    @property
    def token(self) -> str:
        """The bearer token of the native API."""
        if self._token is None:
            self._token = _read_or_make(self._paths.token_file, self.new_key)
        return self._token

    @staticmethod
    def new_key() -> str:
        """A fresh secret: 256 random bits, safe in a header and in a URL."""
        return secrets.token_urlsafe(32)

    def encrypt(self, text: str) -> str:
        """``text`` encrypted with the workspace's key (Fernet: AES-128-CBC with HMAC-SHA256)."""
        from cryptography.fernet import Fernet

        return Fernet(self._fernet_key()).encrypt(text.encode("utf-8")).decode("ascii")

    def decrypt(self, sealed: str) -> str:
        """What ``encrypt`` sealed.

        Raises:
            Failure: it was sealed with another key, or changed since.
        """
        from cryptography.fernet import Fernet, InvalidToken

        try:
            return Fernet(self._fernet_key()).decrypt(sealed.encode("ascii")).decode("utf-8")
        except (InvalidToken, UnicodeEncodeError):
            raise Failure(
                "a stored secret cannot be opened: it was sealed with another key",
                target=str(self._paths.key_file),
                way_out="put the workspace's own secret.key back, or regenerate the endpoint's keys",
            ) from None

    @staticmethod
    def hash(secret: str) -> str:
        """What is stored to recognise ``secret`` again."""
        return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

    @staticmethod
    def compare(given: str, expected: str) -> bool:
        """Whether two texts are equal, in a time that depends on neither."""
        # Digests have one length, so not even the length of the secret shows.
        return hmac.compare_digest(Secrets.hash(given), Secrets.hash(expected))

    @staticmethod
    def matches(given: str, stored_hash: str) -> bool:
        """Whether ``given`` is the secret whose ``hash`` was stored, in constant time."""
        return hmac.compare_digest(Secrets.hash(given), stored_hash)

    def _fernet_key(self) -> bytes:
        if self._key is None:
            text = _read_or_make(
                self._paths.key_file, lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode("ascii")
            )
            self._key = text.encode("ascii", "replace")
            if len(self._key) != 44:
                raise Failure(
                    "not a key: it must be 44 characters of base64",
                    target=str(self._paths.key_file),
                    way_out="put the workspace's own secret.key back",
                )
        return self._key


def _read_or_make(path: Path, make: Callable[[], str]) -> str:
    try:
        text = path.read_text("utf-8").strip()
    except FileNotFoundError:
        with suppress(AlreadyExists):  # another process was first: its secret counts
            write_text(path, f"{make()}\n", mode=0o600, replace=False)
        text = path.read_text("utf-8").strip()
    if path.stat().st_mode & 0o077:
        os.chmod(path, 0o600)  # noqa: PTH101
    if not text:
        raise Failure("the file is empty", target=str(path), way_out="delete it; a new one is made at the next start")
    return text
