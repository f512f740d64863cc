"""OpenSSL itself is the judge: it finds an authority in a folder only under the name that it computes."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tests.azure.handshakes import handshake
from tunesmith.azure.subject_hash import subject_hash

LONG_OID = ObjectIdentifier("2.5.4.97")
ODD_OID = ObjectIdentifier("1.3.6.1.4.1.311.60.2.1.3")


def name(*parts: list[x509.NameAttribute[str]]) -> x509.Name:
    return x509.Name([x509.RelativeDistinguishedName(part) for part in parts])


def text(oid: ObjectIdentifier, value: str, kind: _ASN1Type | None = None) -> x509.NameAttribute[str]:
    return x509.NameAttribute(oid, value, kind)


@pytest.mark.parametrize(
    "subject",
    [
        name([text(NameOID.COMMON_NAME, "Plain CA")]),
        name([text(NameOID.COUNTRY_NAME, "DE")], [text(NameOID.COMMON_NAME, "  Many \t  SPACES \n within  ")]),
        name([text(NameOID.COMMON_NAME, "ÄÖÜ Straße İ Ünïcode ")], [text(NameOID.ORGANIZATION_NAME, "株式会社")]),
        name([text(NameOID.COMMON_NAME, "Größe", _ASN1Type.BMPString)]),
        name([text(NameOID.COMMON_NAME, "Printable CA", _ASN1Type.PrintableString)]),
        name([text(NameOID.EMAIL_ADDRESS, "CA@Example.COM", _ASN1Type.IA5String)]),
        name([text(NameOID.COMMON_NAME, "Z last"), text(NameOID.ORGANIZATION_NAME, "A first")]),
        name([text(ODD_OID, "XY")], [text(LONG_OID, "long " * 40)]),
    ],
    ids=lambda subject: subject.rfc4514_string()[:30],
)
def test_openssl_finds_it(subject: x509.Name, tmp_path: Path) -> None:
    key, certificate = _signed(subject, None, authority=True)
    (tmp_path / f"{subject_hash(certificate)}.0").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    leaf_key, leaf = _signed(name([text(NameOID.COMMON_NAME, "host.example")]), (subject, key), authority=False)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(
        leaf.public_bytes(serialization.Encoding.PEM)
        + leaf_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain)
    assert handshake(server, tmp_path, "host.example") == "host.example"


def _signed(
    subject: x509.Name, by: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None, *, authority: bool
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer, signer = by or (subject, key)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("host.example")]), critical=False)
    )
    return key, builder.sign(signer, hashes.SHA256())
