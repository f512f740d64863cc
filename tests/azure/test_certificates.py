from __future__ import annotations

from pathlib import Path

import pytest

from tests.azure.handshakes import handshake
from tunesmith.azure.certificates import CertificateAuthority
from tunesmith.azure.hosts import caught_hosts

HOSTS = caught_hosts("ts1")


def test_it_answers_for_azures_hosts_and_this_machine(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path / "azure", HOSTS)
    for host in ("management.azure.com", "eastus.api.azureml.ms", "ts1.blob.core.windows.net"):
        assert handshake(authority.context(host), authority.certificate_file, host) == host
    own = handshake(authority.context("localhost"), authority.certificate_file, "localhost")
    assert own == "localhost,127.0.0.1,0:0:0:0:0:0:0:1"


@pytest.mark.parametrize("host", ["example.com", "other.blob.core.windows.net", "login.microsoftonline.com"])
def test_its_word_does_not_count_for_other_hosts(tmp_path: Path, host: str) -> None:
    authority = CertificateAuthority(tmp_path, HOSTS)
    assert handshake(authority.context(host), authority.certificate_file, host) == "permitted subtree violation"


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
