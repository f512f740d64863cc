"""The workspace's own certificate authority: what lets this server answer for Azure's hosts to one process.

The authority's key is 0600 in the workspace, and its certificate can sign for nothing but the hosts that are caught and
this machine (name constraints). It is never put into a system's store: a process trusts it because a variable says so.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tunesmith.storage.atomic import write_text

AUTHORITY_DAYS = 3650
LEAF_DAYS = 397
"""Some clients refuse longer ones."""
RENEW_DAYS = 30
"""A certificate that ends sooner is made anew."""
LEAVES = 64
"""Contexts kept in memory."""
LOOPBACK = ("127.0.0.1", "::1")


class CertificateAuthority:
    """Signs for the hosts that are caught. Makes its key and certificate where there are none.

    Args:
        hosts: what it may sign for, beside this machine; one with a dot before it stands for every name below it.
        folder: where ``ca.pem`` and ``ca.key`` are; it is made with mode 0700.
    """

    def __init__(self, folder: Path, hosts: Sequence[str]) -> None:
        self._folder = folder
        self._permitted = _subtrees(hosts)
        self._contexts: OrderedDict[str, tuple[datetime, ssl.SSLContext]] = OrderedDict()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key, self._certificate = self._read() or self._make()

    @property
    def certificate_file(self) -> Path:
        """The authority's certificate, PEM."""
        return self._folder / "ca.pem"

    @property
    def key_file(self) -> Path:
        """Its key, PEM, 0600."""
        return self._folder / "ca.key"

    def context(self, host: str) -> ssl.SSLContext:
        """What a server needs to be ``host`` in a TLS handshake. Kept in memory until it is about to end."""
        now = datetime.now(UTC)
        kept = self._contexts.get(host)
        if kept is not None and kept[0] > now:
            self._contexts.move_to_end(host)
            return kept[1]
        made = self._new_context(host)
        self._contexts[host] = (now + timedelta(days=LEAF_DAYS - RENEW_DAYS), made)
        while len(self._contexts) > LEAVES:
            self._contexts.popitem(last=False)
        return made

    def _new_context(self, host: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._leaf(host, key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        chain = leaf.public_bytes(serialization.Encoding.PEM) + _private(key)
        # The ssl module loads certificates from files alone; this one is the owner's and gone at once.
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".leaf-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(chain)
            context.load_cert_chain(name)
        finally:
            Path(name).unlink()
        return context

    def _leaf(self, host: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        now = datetime.now(UTC)
        names: list[x509.GeneralName] = [x509.DNSName(host)]
        if host == "localhost":
            names += [x509.IPAddress(ipaddress.ip_address(address)) for address in LOOPBACK]
        return (
            x509.CertificateBuilder()
            .subject_name(_name(host[:64]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=LEAF_DAYS))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _read(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        try:
            key = serialization.load_pem_private_key(self.key_file.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        still_good = certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=RENEW_DAYS)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not still_good:
            return None
        if certificate.public_key() != key.public_key() or _constraints(certificate) != self._permitted:
            return None
        if self.key_file.stat().st_mode & 0o077:
            self.key_file.chmod(0o600)
        return key, certificate

    def _make(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        subject = _name(f"Tunesmith local authority {now:%Y-%m-%d}")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.NameConstraints(permitted_subtrees=self._permitted, excluded_subtrees=None), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_text(self.key_file, _private(key).decode("ascii"), mode=0o600)
        text = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
        write_text(self.certificate_file, text, mode=0o600)
        return key, certificate


def _subtrees(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names = sorted({pattern.removeprefix(".") for pattern in hosts} | {"localhost"})
    networks = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]
    return [*(x509.DNSName(name) for name in names), *(x509.IPAddress(network) for network in networks)]


def _constraints(certificate: x509.Certificate) -> list[x509.GeneralName] | None:
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except x509.ExtensionNotFound:
        return None
    return list(found.value.permitted_subtrees or [])


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
