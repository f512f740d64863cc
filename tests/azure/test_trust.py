from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.azure.handshakes import handshake
from tunesmith.azure.certificates import CertificateAuthority
from tunesmith.azure.hosts import caught_hosts
from tunesmith.azure.trust import BEGIN, END, Trust, write_trust

HOSTS = caught_hosts("ts1")


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "azure", HOSTS)


@pytest.fixture
def corporate(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "corporate", ["corp.example"])


def _write(tmp_path: Path, authority: CertificateAuthority, **caller: str) -> Trust:
    return write_trust(tmp_path / "azure", authority.certificate_file, caller)


def test_file_and_folder_have_the_authority_and_what_was_trusted_before(
    tmp_path: Path, authority: CertificateAuthority, corporate: CertificateAuthority
) -> None:
    caller = {"REQUESTS_CA_BUNDLE": str(corporate.certificate_file), "SSL_CERT_FILE": str(tmp_path / "missing.pem")}
    trust = _write(tmp_path, authority, **caller)
    ours = authority.certificate_file.read_text() + corporate.certificate_file.read_text()
    assert trust.file.read_text().startswith(ours)
    assert ssl.create_default_context(cafile=str(trust.file)).cert_store_stats()["x509_ca"] > 2
    assert len(list(trust.folder.iterdir())) == trust.file.read_text().count(BEGIN)
    assert trust.file.parent == trust.folder.parent == tmp_path / "azure" / "bundles"
    assert (trust.file.stat().st_mode & 0o777, trust.folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert _write(tmp_path, authority, **caller) == trust


def test_handshakes_end_well_with_either(
    tmp_path: Path, authority: CertificateAuthority, corporate: CertificateAuthority
) -> None:
    trust = _write(tmp_path, authority, REQUESTS_CA_BUNDLE=str(corporate.certificate_file))
    stranger = CertificateAuthority(tmp_path / "stranger", ["corp.example"])
    for place in (trust.file, trust.folder):
        assert handshake(authority.context("management.azure.com"), place, "management.azure.com") == (
            "management.azure.com"
        )
        assert handshake(corporate.context("corp.example"), place, "corp.example") == "corp.example"
        assert "certificate" in handshake(stranger.context("corp.example"), place, "corp.example")


def test_a_folder_that_the_caller_trusts_is_read(
    tmp_path: Path, authority: CertificateAuthority, corporate: CertificateAuthority
) -> None:
    once = _write(tmp_path, authority, REQUESTS_CA_BUNDLE=str(corporate.certificate_file))
    twice = _write(tmp_path, authority, REQUESTS_CA_BUNDLE=str(once.folder), SSL_CERT_FILE=str(once.file))
    assert sorted(twice.file.read_text().split(END)) == sorted(once.file.read_text().split(END))


def test_where_a_certificate_cannot_be_read_the_file_is_what_there_is(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    odd = tmp_path / "odd.pem"
    odd.write_text(f"{BEGIN}\nbm90IG9uZQ==\n{END}\n")
    trust = _write(tmp_path, authority, SSL_CERT_FILE=str(odd))
    assert trust.folder == trust.file
    assert [path.name for path in trust.file.parent.iterdir()] == [trust.file.name]
