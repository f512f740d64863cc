from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tunesmith.errors import Failure
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.secrets import Secrets


@pytest.fixture
def paths(tmp_path: Path) -> WorkspacePaths:
    return WorkspacePaths(tmp_path)


def test_the_token_is_made_once_and_for_the_owner_alone(paths: WorkspacePaths) -> None:
    token = Secrets(paths).token
    assert len(token) == 43
    assert paths.token_file.read_text().strip() == token
    assert paths.token_file.stat().st_mode & 0o777 == 0o600
    assert Secrets(paths).token == token


def test_several_at_once_agree_on_one_token(paths: WorkspacePaths) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: Secrets(paths).token, range(16)))
    assert len(found) == 1
    assert [path.name for path in paths.home.iterdir()] == ["token"]


def test_a_file_that_others_may_read_is_closed(paths: WorkspacePaths) -> None:
    paths.token_file.write_text("secret\n")
    paths.token_file.chmod(0o644)
    assert Secrets(paths).token == "secret"
    assert paths.token_file.stat().st_mode & 0o777 == 0o600


def test_an_empty_file_is_an_error(paths: WorkspacePaths) -> None:
    paths.token_file.write_text("")
    with pytest.raises(Failure, match="token: the file is empty"):
        _ = Secrets(paths).token


def test_sealing_and_opening(paths: WorkspacePaths) -> None:
    sealed = Secrets(paths).encrypt("a key, ü")
    assert "key" not in sealed
    assert Secrets(paths).decrypt(sealed) == "a key, ü"
    assert Secrets(paths).encrypt("a key, ü") != sealed
    assert paths.key_file.stat().st_mode & 0o777 == 0o600


def test_another_key_cannot_open(paths: WorkspacePaths) -> None:
    sealed = Secrets(paths).encrypt("x")
    paths.key_file.unlink()
    with pytest.raises(Failure, match="another key"):
        Secrets(paths).decrypt(sealed)
    paths.key_file.write_text("short\n")
    with pytest.raises(Failure, match="44 characters"):
        Secrets(paths).decrypt(sealed)


def test_comparing() -> None:
    key = Secrets.new_key()
    assert Secrets.compare(key, key)
    assert not Secrets.compare(key, key[:-1])
    assert not Secrets.compare("", key)
    assert not Secrets.compare("\udc80é", key)
    assert Secrets.matches(key, Secrets.hash(key))
    assert not Secrets.matches(key + "x", Secrets.hash(key))
    assert key not in Secrets.hash(key)


def test_keys_never_repeat_and_go_into_a_header() -> None:
    keys = {Secrets.new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.isascii() and key.replace("-", "").replace("_", "").isalnum() for key in keys)
