from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import ValidationFailed
from tunesmith.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "PORT", "HOST", "LOG_LEVEL", "ALLOWED_HOSTS", "MLFLOW"):
        monkeypatch.delenv(f"TUNESMITH_{name}", raising=False)


def test_the_argument_comes_before_the_variable_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.toml").write_text('port = 1111\nhost = "127.0.0.2"\nlog_level = "debug"\n')
    monkeypatch.setenv("TUNESMITH_HOST", "127.0.0.3")
    monkeypatch.setenv("TUNESMITH_PORT", "2222")
    settings = load_settings(tmp_path, port=3333)
    assert (settings.port, settings.host, settings.log_level) == (3333, "127.0.0.3", "debug")


def test_none_is_not_given(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("port = 1111\n")
    assert load_settings(tmp_path, port=None).port == 1111


def test_an_unknown_key_of_the_file_is_named_with_the_closest(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("prot = 1\nhome = '/x'\n")
    with pytest.raises(ValidationFailed) as caught:
        load_settings(tmp_path)
    targets = {fault.target: fault.way_out for fault in caught.value.details}
    assert targets[f"{tmp_path}/settings.toml#prot"] == "did you mean port?"
    assert f"{tmp_path}/settings.toml#home" in targets


def test_a_faulty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("port = = 1\n")
    with pytest.raises(ValidationFailed, match=r"settings\.toml: not a TOML file"):
        load_settings(tmp_path)


def test_a_wrong_value_is_named_by_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.toml").write_text('log_level = "loud"\n')
    monkeypatch.setenv("TUNESMITH_PORT", "many")
    with pytest.raises(ValidationFailed) as caught:
        load_settings(tmp_path, allow_remote="perhaps")
    assert {fault.target for fault in caught.value.details} == {
        f"{tmp_path}/settings.toml#log_level",
        "TUNESMITH_PORT",
        "allow_remote",
    }


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed) as caught:
        load_settings(tmp_path, tls_certificate=tmp_path / "c.pem")
    assert caught.value.target == "tls_key"


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("box", False)]
)
def test_loopback_is_known(tmp_path: Path, host: str, loopback: bool) -> None:
    assert load_settings(tmp_path, host=host).loopback is loopback


def test_lists_are_written_with_commas_in_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_ALLOWED_HOSTS", "box.example, other ")
    assert load_settings(tmp_path).allowed_hosts == ("box.example", "other")
    monkeypatch.delenv("TUNESMITH_ALLOWED_HOSTS")
    (tmp_path / "settings.toml").write_text('allowed_hosts = ["a", "b"]\n')
    assert load_settings(tmp_path).allowed_hosts == ("a", "b")


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_every_setting_is_in_the_documentation() -> None:
    page = (Path(__file__).parent.parent / "docs" / "workspace.md").read_text("utf-8")
    table = page.partition("## Settings")[2].partition("\n## ")[0]
    for name in Settings.model_fields:
        assert f"`{name}`" in table
        assert f"`TUNESMITH_{name.upper()}`" in table
