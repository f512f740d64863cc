"""The XML of blob storage: lists of blobs out, lists of blocks in."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from tunesmith.azure.blob_errors import BlobError, not_implemented
from tunesmith.azure.blob_files import BlobFiles, Properties
from tunesmith.azure.blob_places import Entry, Places

MOST = 5000
"""Blobs in one part of a list."""
_NOT_IN_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no text in XML may have, and a carriage return, which does not come through."""


def list_blobs(places: Places, files: BlobFiles, container: str, query: Mapping[str, str], base: str) -> str:
    """A part of the list of a container's blobs, as XML.

    ``base``: the URL of the storage account.

    Raises:
        BlobError: an option is faulty, or not known here.
    """
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    if delimiter not in ("", "/"):
        raise not_implemented(f"a list with the delimiter {delimiter[:20]!r}")
    include = set(filter(None, query.get("include", "").split(",")))
    if strange := include - {"metadata", "uncommittedblobs", "deleted", "copy", "tags", "versions", "snapshots"}:
        raise not_implemented(f"a list with {', '.join(sorted(strange))}")
    most = _most(query.get("maxresults"))
    after = _unmark(query.get("marker", ""))
    lines: list[str] = []
    last, more = "", False
    for entry in places.list(container, prefix, delimiter=delimiter):
        if after is not None and entry.name <= after:
            continue
        if len(lines) == most:
            more = True
            break
        line = _entry(files, entry, metadata="metadata" in include)
        if line is not None:
            lines.append(line)
            last = entry.name
    marker = _mark(last) if more else ""
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        f"<EnumerationResults ServiceEndpoint={quoteattr(base + '/')} ContainerName={quoteattr(container)}>"
        f"{_named('Prefix', prefix)}<MaxResults>{most}</MaxResults><Delimiter>{escape(delimiter)}</Delimiter>"
        f"<Blobs>{''.join(lines)}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
    )


def read_block_list(body: bytes) -> list[str]:
    """The ids in a list of blocks, in order.

    Raises:
        BlobError: it is not one, or it names blocks of the blob as it is, which are not kept apart here.
    """
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise BlobError(400, "InvalidXmlDocument", f"the list of blocks is no XML: {error}") from None
    if root.tag != "BlockList":
        raise BlobError(400, "InvalidXmlDocument", f"a BlockList is wanted, and a {root.tag[:60]} came")
    blocks = []
    for item in root:
        if item.tag == "Committed":
            raise not_implemented("a list that takes over blocks of the blob as it is (Committed)")
        if item.tag not in ("Latest", "Uncommitted"):
            raise BlobError(400, "InvalidXmlNodeValue", f"{item.tag[:60]!r} is unknown in a list of blocks")
        blocks.append((item.text or "").strip())
    return blocks


def _entry(files: BlobFiles, entry: Entry, *, metadata: bool) -> str | None:
    if entry.path is None:
        return f"<BlobPrefix>{_named('Name', entry.name)}</BlobPrefix>"
    found = files.at(entry.path)
    if found is None:  # it went while the list was made
        return None
    return (
        f"<Blob>{_named('Name', entry.name)}<Properties>{_properties(found)}</Properties>"
        f"{_metadata(found) if metadata else ''}</Blob>"
    )


def _named(tag: str, text: str) -> str:
    """A name as an element; in percent signs, as blob storage does it, where XML cannot hold it.

    Files may have names that are no UTF-8. Such a name is shown, and cannot be asked for.
    """
    if _NOT_IN_XML.search(text):
        return f'<{tag} Encoded="true">{quote(text.encode("utf-8", "surrogateescape"))}</{tag}>'
    return f"<{tag}>{escape(text)}</{tag}>"


def _properties(found: Properties) -> str:
    content = {"Content-Type": "application/octet-stream", **found.sidecar.content}
    return (
        f"<Creation-Time>{found.last_modified}</Creation-Time><Last-Modified>{found.last_modified}</Last-Modified>"
        f"<Etag>{escape(found.etag.strip(chr(34)))}</Etag><Content-Length>{found.size}</Content-Length>"
        + "".join(f"<{name}>{escape(value)}</{name}>" for name, value in content.items())
        + f"<BlobType>{found.sidecar.kind}</BlobType><LeaseStatus>unlocked</LeaseStatus>"
        "<LeaseState>available</LeaseState><ServerEncrypted>false</ServerEncrypted>"
    )


def _metadata(found: Properties) -> str:
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in found.sidecar.metadata.items())
    return f"<Metadata>{inner}</Metadata>"


def _most(text: str | None) -> int:
    if text is None:
        return MOST
    if not text.isdecimal() or not 1 <= int(text) <= 100_000_000:
        raise BlobError(400, "OutOfRangeQueryParameterValue", f"maxresults must be a number from 1, got {text[:20]!r}")
    return min(int(text), MOST)


def _mark(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode("utf-8", "surrogateescape")).decode()


def _unmark(marker: str) -> str | None:
    if not marker:
        return None
    try:
        return base64.urlsafe_b64decode(marker).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        raise BlobError(400, "InvalidQueryParameterValue", "the marker is none of this list's") from None
