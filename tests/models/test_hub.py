from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.conftest import Listener
from tests.support.hub import FakeHub, fake_hub
from tunesmith.errors import InvalidModel, NotAllowed, NotAuthenticated, NotFound, TunesmithError, Unreachable
from tunesmith.models import ModelPackage, import_model


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tiny_llama: Path) -> Iterator[FakeHub]:
    """A hub with one repository, which the hub's client talks to."""
    import huggingface_hub.constants

    with fake_hub() as served:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        served.add("acme/tiny", tiny_llama)
        yield served


class Importer:
    def __init__(self, root: Path, listener: Listener) -> None:
        self.root = root
        self.listener = listener

    def __call__(self, source: str = "hf://acme/tiny") -> ModelPackage:
        return import_model(
            source,
            self.root / "packages" / "tiny",
            downloads=self.root / "downloads",
            name="Tiny-Instruct",
            reporter=self.listener,
        )

    @property
    def left(self) -> list[str]:
        return [path.name for path in (self.root / "packages").iterdir()]


@pytest.fixture
def load(tmp_path: Path, listener: Listener) -> Importer:
    return Importer(tmp_path, listener)


def test_repository_becomes_a_package_pinned_to_its_commit(hub: FakeHub, load: Importer, tiny_llama: Path) -> None:
    (tiny_llama / "pytorch_model.bin").write_bytes(b"\x80")
    (tiny_llama / "modeling.py").write_text("x")
    (tiny_llama / "additional_chat_templates").mkdir()
    template = (tiny_llama / "chat_template.jinja").read_text()
    (tiny_llama / "additional_chat_templates" / "tool_use.jinja").write_text(template)
    (tiny_llama / "original").mkdir()
    (tiny_llama / "original" / "consolidated.00.pth").write_bytes(b"\x80")
    (tiny_llama / "original" / "params.json").write_text("{}")
    package = load()
    assert package.manifest.origin.source == "hf://acme/tiny"
    assert package.manifest.origin.revision == hub.repositories["acme/tiny"].commit
    assert package.manifest.license == "mit"
    assert "additional_chat_templates/tool_use.jinja" in package.manifest.files
    for never in ("pytorch_model.bin", "modeling.py", "original"):
        assert hub.asked(never) == 0
    assert all(f"/resolve/{package.manifest.origin.revision}/" in path for path in hub.requests if "/resolve/" in path)
    package.verify()
    assert list((load.root / "downloads" / "hub").iterdir()) == []


def test_progress_runs_to_its_end_in_bytes(hub: FakeHub, load: Importer, tiny_llama: Path) -> None:
    load()
    done = [now for now, _ in load.listener.progressed["download"]]
    totals = {total for _, total in load.listener.progressed["download"]}
    assert done == sorted(done)
    assert len(done) > 5
    assert totals == {done[-1]}
    assert done[-1] > (tiny_llama / "model.safetensors").stat().st_size


def test_second_import_asks_nothing(hub: FakeHub, load: Importer) -> None:
    first = load()
    hub.requests.clear()
    assert load().sha256 == first.sha256
    assert not hub.requests


def test_revision_may_be_named(hub: FakeHub, load: Importer) -> None:
    commit = hub.repositories["acme/tiny"].commit
    assert load(f"hf://acme/tiny@{commit}").manifest.origin.revision == commit


def test_interrupted_import_goes_on_where_it_stopped(hub: FakeHub, load: Importer, tiny_llama: Path) -> None:
    hub.lies["model.safetensors"] = b"too little"  # the largest file comes last
    with pytest.raises(InvalidModel, match=r"model.safetensors of acme/tiny did not arrive whole: 10 bytes"):
        load()
    assert load.left == []
    hub.lies.clear()
    hub.requests.clear()
    hub.cut["model.safetensors"] = 1000  # and the connection breaks once
    load().verify()
    assert {path.rsplit("/", 1)[-1] for path in hub.requests if "/resolve/" in path} == {"model.safetensors"}
    assert hub.asked("GET /acme/tiny/resolve") == 2


def test_wrong_content_is_found_by_its_checksum(hub: FakeHub, load: Importer, tiny_llama: Path) -> None:
    content = bytearray((tiny_llama / "model.safetensors").read_bytes())
    content[-1] ^= 1
    hub.lies["model.safetensors"] = bytes(content)
    with pytest.raises(InvalidModel, match=r"model.safetensors of acme/tiny did not arrive whole"):
        load()
    assert load.left == []
    hub.lies.clear()
    load().verify()


REFUSALS = {
    "no such repository": ("hf://acme/nothing", NotAuthenticated, "no acme/nothing that may be read with no token set"),
    "no such revision": ("hf://acme/tiny@v9", NotFound, "no revision 'v9'"),
    "no such member": ("hf://acme/tiny/model.gguf", NotFound, "no file model.gguf"),
}


@pytest.mark.parametrize(("source", "kind", "said"), REFUSALS.values(), ids=list(REFUSALS))
def test_what_is_not_there(hub: FakeHub, load: Importer, source: str, kind: type[TunesmithError], said: str) -> None:
    with pytest.raises(kind, match=said):
        load(source)
    assert load.left == []


def test_gated_model_says_what_to_accept_and_how_else(hub: FakeHub, load: Importer) -> None:
    hub.repositories["acme/tiny"].gated = True
    with pytest.raises(NotAllowed, match="acme/tiny is gated") as caught:
        load()
    assert "HF_TOKEN" in str(caught.value.way_out)
    assert "tunesmith models import Tiny-Instruct --from FOLDER" in str(caught.value.way_out)


def test_token_opens_a_private_model(hub: FakeHub, load: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["acme/tiny"].token = "hf_secret"
    with pytest.raises(NotAuthenticated):
        load()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(NotAuthenticated, match="with the token that is set") as caught:
        load()
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert load().manifest.license == "mit"


def test_pickle_only_repository_is_refused_before_any_download(hub: FakeHub, load: Importer, tiny_llama: Path) -> None:
    (tiny_llama / "model.safetensors").rename(tiny_llama / "pytorch_model.bin")
    with pytest.raises(InvalidModel, match=r"only pickled weights \(pytorch_model.bin\)"):
        load()
    assert hub.asked("/resolve/") == 0


@pytest.mark.parametrize(
    "name", ["LICENSE/../../../evil", "additional_chat_templates/../../x.jinja", "..\\x.safetensors"]
)
def test_hub_cannot_name_files_outside(hub: FakeHub, load: Importer, name: str) -> None:
    hub.more_names.append(name)
    try:
        package = load()
    except InvalidModel as error:
        assert "leads out of the folder" in error.message
    else:
        assert name not in package.manifest.files
    assert hub.asked("evil") == hub.asked("x.jinja") == hub.asked("x.safetensors") == 0


def test_hub_in_trouble(hub: FakeHub, load: Importer) -> None:
    hub.status = 503
    with pytest.raises(Unreachable, match="HTTP 503"):
        load()


def test_unreachable_hub_says_at_once_how_to_import_from_a_folder(
    load: Importer, monkeypatch: pytest.MonkeyPatch, hub: FakeHub
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(Unreachable, match="cannot be reached for acme/tiny") as caught:
            load()
    assert "tunesmith models import Tiny-Instruct --from FOLDER" in str(caught.value.way_out)
    assert load.left == []


def test_offline_switch_is_honoured(hub: FakeHub, load: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set") as caught:
        load()
    assert "--from FOLDER" in str(caught.value.way_out)
    assert not hub.requests
