"""Between blob storage's headers and what is kept of a blob: content, metadata, ranges."""

from __future__ import annotations

import re
from typing import IO

from starlette.requests import Request
from starlette.responses import Response

from tunesmith.azure.blob_checksums import Checksums
from tunesmith.azure.blob_errors import BlobError
from tunesmith.azure.blob_files import Properties

PIECE = 1 << 20
"""Bytes that are read or written at once."""
_CONTENT = ("type", "encoding", "language", "disposition", "md5")
_METADATA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


def blob_headers(found: Properties) -> dict[str, str]:
    """The headers of a blob as it is."""
    sidecar = found.sidecar
    headers = {
        "etag": found.etag,
        "last-modified": found.last_modified,
        "accept-ranges": "bytes",
        "content-type": "application/octet-stream",
        "x-ms-blob-type": sidecar.kind,
        "x-ms-creation-time": found.last_modified,
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-server-encrypted": "false",
    }
    headers |= {name.lower(): value for name, value in sidecar.content.items()}
    return headers | {f"x-ms-meta-{name}": value for name, value in sidecar.metadata.items()}


def written(found: Properties, more: dict[str, str], status: int = 201) -> Response:
    """The answer to a write."""
    headers = {"etag": found.etag, "last-modified": found.last_modified, "x-ms-request-server-encrypted": "false"}
    return Response(status_code=status, headers=headers | more)


def read_metadata(request: Request) -> dict[str, str]:
    """The metadata that a request sets.

    Raises:
        BlobError: a name is none that XML can have.
    """
    found = {
        name.removeprefix("x-ms-meta-"): value
        for name, value in request.headers.items()
        if name.startswith("x-ms-meta-")
    }
    for name in found:
        if not _METADATA_NAME.fullmatch(name):
            raise BlobError(400, "InvalidMetadata", f"{name[:80]!r} is not a name for metadata")
    return found


def read_content(request: Request) -> dict[str, str]:
    """The headers of the content that a request sets."""
    found: dict[str, str] = {}
    for part in _CONTENT:
        value = request.headers.get(f"x-ms-blob-content-{part}")
        if value:
            found["Content-MD5" if part == "md5" else f"Content-{part.title()}"] = value
    if (cache := request.headers.get("x-ms-blob-cache-control")) is not None:
        found["Cache-Control"] = cache
    return found


def read_range(text: str, size: int) -> tuple[int, int]:
    """First and last byte of a range that was asked for.

    Raises:
        BlobError: it is no range, or none of the blob.
    """
    found = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", text.strip())
    if found is None:
        raise BlobError(400, "InvalidHeaderValue", f"{text[:60]!r} is no range of bytes")
    first = int(found[1])
    last = min(int(found[2]), size - 1) if found[2] else size - 1
    if first >= size or last < first:
        raise BlobError(416, "InvalidRange", f"the blob has {size} bytes, and {text[:60]} is asked for")
    return first, last


def md5_of(file: IO[bytes], first: int, last: int) -> str:
    """The MD5 of a part of a file, in base64."""
    sums = Checksums({})
    file.seek(first)
    left = last - first + 1
    while left > 0 and (piece := file.read(min(PIECE, left))):
        sums.update(piece)
        left -= len(piece)
    return sums.md5
