from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tunesmith.azure.certificates import CertificateAuthority
from tunesmith.azure.hosts import caught_hosts
from tunesmith.azure.trust import write_bundle

HOSTS = caught_hosts("ts1")


def _handshake(server: ssl.SSLContext, authority: Path, host: str) -> str:
    """A handshake in memory; the certificate's subject names, or the client's complaint."""
    client = ssl.create_default_context(cafile=str(authority))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=host)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(6):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    found = near.getpeercert()
    assert found is not None
    return ",".join(str(entry[1]) for entry in found["subjectAltName"])


def test_it_answers_for_azures_hosts_and_this_machine(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path / "azure", HOSTS)
    for host in ("management.azure.com", "eastus.api.azureml.ms", "ts1.blob.core.windows.net"):
        assert _handshake(authority.context(host), authority.certificate_file, host) == host
    own = _handshake(authority.context("localhost"), authority.certificate_file, "localhost")
    assert own == "localhost,127.0.0.1,0:0:0:0:0:0:0:1"


@pytest.mark.parametrize("host", ["example.com", "other.blob.core.windows.net", "login.microsoftonline.com"])
def test_its_word_does_not_count_for_other_hosts(tmp_path: Path, host: str) -> None:
    authority = CertificateAuthority(tmp_path, HOSTS)
    assert _handshake(authority.context(host), authority.certificate_file, host) == "permitted subtree violation"


def test_the_key_is_the_owners_and_the_authority_stays(tmp_path: Path) -> None:
    folder = tmp_path / "azure"
    first = CertificateAuthority(folder, HOSTS)
    text = first.certificate_file.read_bytes()
    assert first.key_file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    first.key_file.chmod(0o644)
    again = CertificateAuthority(folder, HOSTS)
    assert again.certificate_file.read_bytes() == text
    assert again.key_file.stat().st_mode & 0o777 == 0o600
    assert again.context("management.azure.com") is again.context("management.azure.com")
    assert sorted(path.name for path in folder.iterdir()) == ["ca.key", "ca.pem"]


def test_other_hosts_or_a_damaged_file_make_a_new_authority(tmp_path: Path) -> None:
    first = CertificateAuthority(tmp_path, HOSTS).certificate_file.read_bytes()
    second = CertificateAuthority(tmp_path, caught_hosts("ts2")).certificate_file.read_bytes()
    assert second != first
    (tmp_path / "ca.key").write_text("damaged")
    third = CertificateAuthority(tmp_path, caught_hosts("ts2")).certificate_file.read_bytes()
    assert third != second


def test_the_bundle_has_the_authority_and_what_was_trusted_before(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path / "azure", HOSTS)
    corporate = CertificateAuthority(tmp_path / "corporate", ["corp.example"])
    caller = {"REQUESTS_CA_BUNDLE": str(corporate.certificate_file), "SSL_CERT_FILE": str(tmp_path / "missing.pem")}
    bundle = write_bundle(tmp_path / "azure", authority.certificate_file, caller)
    ours = authority.certificate_file.read_text() + corporate.certificate_file.read_text()
    assert bundle.read_text().startswith(ours)
    assert ssl.create_default_context(cafile=str(bundle)).cert_store_stats()["x509_ca"] > 2
    assert bundle.parent == tmp_path / "azure" / "bundles"
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert write_bundle(tmp_path / "azure", authority.certificate_file, caller) == bundle
