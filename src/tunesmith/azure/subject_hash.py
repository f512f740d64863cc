"""The name under which OpenSSL looks for an authority in a folder: a hash of its subject, in eight hexadecimal digits.

The subject is hashed in a canonical form, so that certificates which write one name differently agree: each text as
UTF-8, in lower case, without white space around it and with one space for each run within (only ASCII counts); each
part's attributes in DER's order; and no header around the whole. See ``X509_NAME_hash_ex(3)``.
"""

from __future__ import annotations

import hashlib
import re

from cryptography import x509
from cryptography.x509.name import _ASN1Type

_TEXTS = frozenset(
    {
        _ASN1Type.UTF8String,
        _ASN1Type.BMPString,
        _ASN1Type.UniversalString,
        _ASN1Type.PrintableString,
        _ASN1Type.T61String,
        _ASN1Type.IA5String,
        _ASN1Type.VisibleString,
    }
)
_UTF8, _SEQUENCE, _SET, _OID = 0x0C, 0x30, 0x31, 0x06
_SPACE = re.compile("[ \t\n\v\f\r]+")
_UPPER = re.compile("[A-Z]")


def subject_hash(certificate: x509.Certificate) -> str:
    """The hash of ``certificate``'s subject."""
    parts = (
        _tlv(_SET, b"".join(sorted(_attribute(attribute) for attribute in part))) for part in certificate.subject.rdns
    )
    digest = hashlib.sha1(b"".join(parts), usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def _attribute(attribute: x509.NameAttribute[str | bytes]) -> bytes:
    value = attribute.value
    if attribute._type in _TEXTS and isinstance(value, str):
        text = _SPACE.sub(" ", value.strip(" \t\n\v\f\r"))
        content = _tlv(_UTF8, _UPPER.sub(lambda found: found[0].lower(), text).encode())
    else:
        content = _tlv(attribute._type.value, value.encode() if isinstance(value, str) else value)
    return _tlv(_SEQUENCE, _oid(attribute.oid.dotted_string) + content)


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(number) for number in dotted.split("."))
    body = b""
    for number in (first * 40 + second, *rest):
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(0x80 | number & 0x7F)
        body += bytes(reversed(digits))
    return _tlv(_OID, body)


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
