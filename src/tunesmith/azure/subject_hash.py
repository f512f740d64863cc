"""The name under which OpenSSL looks for an authority in a folder: a hash of its subject, in eight hexadecimal digits.

The subject is hashed in a canonical form, so that certificates which write one name differently agree: each text as
UTF-8, in lower case, without white space around it and with one space for each run within (only ASCII counts); each
part's attributes in DER's order; and no header around the whole. See ``X509_NAME_hash_ex(3)``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from cryptography import x509

# DER's tags.
_UTF8, _PRINTABLE, _T61, _IA5, _VISIBLE, _UNIVERSAL, _BMP = 0x0C, 0x13, 0x14, 0x16, 0x1A, 0x1C, 0x1E
_SEQUENCE, _SET = 0x30, 0x31
_ENCODINGS = {
    _UTF8: "utf-8",
    _PRINTABLE: "latin-1",
    _T61: "latin-1",
    _IA5: "latin-1",
    _VISIBLE: "latin-1",
    _UNIVERSAL: "utf-32-be",
    _BMP: "utf-16-be",
}
_SPACE = re.compile("[ \t\n\v\f\r]+")
_UPPER = re.compile("[A-Z]")


def subject_hash(certificate: x509.Certificate) -> str:
    """The hash of ``certificate``'s subject."""
    [(_, parts)] = _items(certificate.subject.public_bytes())
    canonical = b"".join(
        _item(_SET, b"".join(sorted(_attribute(attribute) for _, attribute in _items(part))))
        for _, part in _items(parts)
    )
    digest = hashlib.sha1(canonical, usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def _attribute(content: bytes) -> bytes:
    (kind, name), (tag, value) = _items(content)
    if tag in _ENCODINGS:
        text = _SPACE.sub(" ", value.decode(_ENCODINGS[tag]).strip(" \t\n\v\f\r"))
        tag, value = _UTF8, _UPPER.sub(lambda found: found[0].lower(), text).encode()
    return _item(_SEQUENCE, _item(kind, name) + _item(tag, value))


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and the content of each item in DER."""
    while data:
        tag, size, start = data[0], data[1], 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[2:start], "big")
        yield tag, data[start : start + size]
        data = data[start + size :]


def _item(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
