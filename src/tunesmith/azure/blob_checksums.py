"""The two checksums that blob storage knows: MD5, and the CRC-64 that NVMe uses too."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from tunesmith.azure.blob_errors import BlobError

_POLYNOMIAL = 0x9A6C9329AC4BC9B5
_ONES = 0xFFFFFFFFFFFFFFFF


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


class Checksums:
    """Follows a body as it arrives, and compares it with what its headers promise."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._wanted_md5 = headers.get("content-md5")
        self._wanted_crc = headers.get("x-ms-content-crc64")
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._crc = _ONES

    def update(self, piece: bytes) -> None:
        """The next piece of the body."""
        self._md5.update(piece)
        if self._wanted_crc is not None:  # slow in Python, and few ask for it
            value = self._crc
            for byte in piece:
                value = (value >> 8) ^ _TABLE[(value ^ byte) & 0xFF]
            self._crc = value

    @property
    def md5(self) -> str:
        """In base64, as headers have it."""
        return base64.b64encode(self._md5.digest()).decode()

    @property
    def crc64(self) -> str:
        """In base64, little-endian; meaningful only when the request promised one."""
        return base64.b64encode((self._crc ^ _ONES).to_bytes(8, "little")).decode()

    def check(self) -> None:
        """Refuse a body that is not what its headers promise.

        Raises:
            BlobError: 400; nothing may be kept of it.
        """
        if self._wanted_md5 is not None and self._wanted_md5 != self.md5:
            raise BlobError(
                400, "Md5Mismatch", f"what arrived has the MD5 {self.md5}, and {self._wanted_md5} was promised"
            )
        if self._wanted_crc is not None and self._wanted_crc != self.crc64:
            raise BlobError(
                400, "Crc64Mismatch", f"what arrived has the CRC-64 {self.crc64}, and {self._wanted_crc} was promised"
            )
