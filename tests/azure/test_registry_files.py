"""The weights of the registry's models, downloaded as the SDK does it; what is not here is imported first."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.azure.test_registry import R
from tests.azure.wire import Wire, azure_wire
from tests.support.hub import fake_hub
from tests.support.tiny import tiny_model
from tunesmith.azure.arm import short_reference
from tunesmith.azure.registry_files import fetch_weights
from tunesmith.errors import Conflict
from tunesmith.models import import_model

HERE, AT_THE_HUB = "Phi-3-mini-4k-instruct", "Qwen2.5-0.5B-Instruct"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("phi3", tmp_path_factory.mktemp("source") / "phi3")


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with azure_wire(tmp_path / "home") as wire:
        yield wire


def asked(wire: Wire, name: str, status: int = 200, **changes: Any) -> Any:
    """The SDK's call before it downloads a model of the registry."""
    found = wire.call("GET", f"{R}/models/{name}/versions/1")
    body = {"assetId": found["id"], "blobUri": found["properties"]["modelUri"], **changes}
    return wire.call("POST", f"{R}/datarefs/{name}/versions/1", body, status)


def downloaded(wire: Wire, answer: Any, prefix: str) -> dict[str, bytes]:
    """What the SDK downloads then: every blob whose name begins with ``prefix``."""
    base, _, token = answer["blobReferenceForConsumption"]["credential"]["sasUri"].partition("?")
    listed = wire.client.get(f"{base}?restype=container&comp=list&prefix={prefix}&{token}")
    names = re.findall("<Name>(.*?)</Name>", listed.text)
    assert names, listed.text
    return {name.removeprefix(prefix): wire.client.get(f"{base}/{name}?{token}").content for name in names}


def test_weights_that_are_here_are_read_as_blobs(wire: Wire, source: Path, tmp_path: Path) -> None:
    place = wire.services.models.package_folder(wire.services.models.get(HERE, registry="azureml"))
    package = import_model(str(source), place, downloads=tmp_path / "downloads", name=HERE)
    answer = asked(wire, HERE)
    uri = answer["blobReferenceForConsumption"]["blobUri"]
    assert uri == wire.call("GET", f"{R}/models/{HERE}/versions/1")["properties"]["modelUri"]
    container, _, prefix = urlsplit(uri).path.removeprefix("/").partition("/")
    assert (container, prefix) == ("registry-azureml", f"{HERE}/1/")
    assert short_reference(uri) == f"azureml://registries/azureml/models/{HERE}/versions/1"
    files = downloaded(wire, answer, prefix)
    assert files == {path.name: path.read_bytes() for path in package.path.iterdir()} and "model.safetensors" in files

    base, _, token = answer["blobReferenceForConsumption"]["credential"]["sasUri"].partition("?")
    target = f"{base}/{prefix}model.safetensors"
    headers = {"x-ms-blob-type": "BlockBlob"}
    assert wire.client.put(f"{target}?{token}", content=b"x", headers=headers).status_code == 403
    assert wire.client.delete(f"{target}?{token}").status_code == 403
    kept = wire.client.put(target, content=b"x", headers={**headers, **wire.bearer})  # whose token permits everything
    assert kept.status_code == 403 and "stay as they were imported" in kept.text
    assert wire.client.get(target).status_code == 403


def test_only_the_model_that_the_path_names(wire: Wire) -> None:
    other = asked(wire, HERE, 400, assetId="azureml://registries/azureml/codes/x/versions/1")["error"]
    assert other["target"] == "assetId" and f"/models/{HERE}/versions/1" in other["message"]
    unknown = wire.call("POST", f"{R}/datarefs/none/versions/1", {"assetId": "x", "blobUri": "y"}, 404)
    assert "none" in unknown["error"]["message"]
    assert wire.services.jobs.list() == []


def test_weights_that_are_not_here_are_imported(wire: Wire, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = wire.services.models.get(AT_THE_HUB, registry="azureml")
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("Qwen/Qwen2.5-0.5B-Instruct", source)
        with pytest.raises(Conflict, match="are being imported by the job") as told:
            asyncio.run(fetch_weights(wire.services, model, hold_s=0.01))
        assert told.value.http_headers == {"Retry-After": "1"}  # the SDK asks again by itself
        files = downloaded(wire, asked(wire, AT_THE_HUB), f"{AT_THE_HUB}/1/")
    assert files["model.safetensors"] == (source / "model.safetensors").read_bytes()
    (job,) = wire.services.jobs.list()
    assert job.name in str(told.value) and job.status == "Completed"


def test_weights_that_cannot_be_fetched_are_refused_with_the_cause(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        error = asked(wire, AT_THE_HUB, 424)["error"]
    (job,) = wire.services.jobs.list()
    assert job.name in error["message"] and "HF_ENDPOINT" in error["message"] and "Way out:" in error["message"]
    assert error["target"] == f"azureml://registries/azureml/models/{AT_THE_HUB}/versions/1"
