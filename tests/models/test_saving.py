from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.models.conftest import Listener
from tunesmith.errors import AlreadyExists, InvalidModel
from tunesmith.models import ModelPackage, load_model, save_package


def test_saved_model_is_the_trained_one_and_the_rest_is_the_bases(
    llama: ModelPackage, tmp_path: Path, listener: Listener
) -> None:
    model = load_model(llama)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    saved = save_package(model, tmp_path / "tuned", like=llama, reporter=listener)
    again = load_model(saved)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    same = set(llama.manifest.files) - {"model.safetensors"}
    assert {name: saved.manifest.files[name] for name in same} == {
        name: llama.manifest.files[name] for name in same
    } | {"config.json": saved.manifest.files["config.json"]}
    assert saved.manifest.chat_contract == llama.manifest.chat_contract
    assert saved.manifest.origin.source == f"tuned:{llama.sha256}"
    assert saved.manifest.parameter_count == llama.manifest.parameter_count
    assert listener.progressed["save"][-1][0] == listener.progressed["save"][-1][1]
    saved.verify()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16])
def test_weights_are_stored_in_the_dtype_asked_for(
    llama: ModelPackage, tmp_path: Path, dtype: str | torch.dtype
) -> None:
    saved = save_package(load_model(llama), tmp_path / "tuned", like=llama, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    assert saved.manifest.dtype == name
    assert str(load_model(saved).dtype) == f"torch.{name}"
    stored = load_model(saved).state_dict()
    for key, tensor in load_model(llama).state_dict().items():
        assert torch.equal(stored[key], tensor.to(getattr(torch, name)))


def test_folder_of_trained_weights_becomes_a_package(llama: ModelPackage, tmp_path: Path) -> None:
    model = load_model(llama)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    model.save_pretrained(tmp_path / "checkpoint", max_shard_size="100KB")
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) > 1
    from_folder = save_package(tmp_path / "checkpoint", tmp_path / "a", like=llama)
    from_memory = save_package(model, tmp_path / "b", like=llama)
    assert from_folder.sha256 == from_memory.sha256


def test_sharded_base_gives_a_package_sharded_the_same(llama: ModelPackage, tmp_path: Path) -> None:
    from tunesmith.models import import_model

    folder = tmp_path / "sharded"
    load_model(llama).save_pretrained(folder, max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(llama.path / name, folder / name)
    base = import_model(str(folder), tmp_path / "base", downloads=tmp_path, name="sharded")
    saved = save_package(load_model(base), tmp_path / "tuned", like=base, dtype="bfloat16")
    assert [path.name for path in saved.weight_files()] == [path.name for path in base.weight_files()]
    assert len(saved.weight_files()) > 1
    assert torch.equal(
        load_model(saved).state_dict()["model.norm.weight"].float(),
        load_model(base).state_dict()["model.norm.weight"].bfloat16().float(),
    )


def test_package_shares_no_file_with_its_base(llama: ModelPackage, tmp_path: Path) -> None:
    saved = save_package(load_model(llama), tmp_path / "tuned", like=llama)
    inodes = {path.stat().st_ino for path in llama.path.iterdir()}
    assert not inodes & {path.stat().st_ino for path in saved.path.iterdir()}


def test_grown_vocabulary_is_refused(llama: ModelPackage, tmp_path: Path) -> None:
    model = load_model(llama)
    model.resize_token_embeddings(520, mean_resizing=False)
    with pytest.raises(InvalidModel, match=r"embed_tokens.weight has the shape \(520, 64\) and its base \(512, 64\)"):
        save_package(model, tmp_path / "tuned", like=llama)
    assert list(tmp_path.iterdir()) == []


def test_output_layer_that_is_no_longer_tied_is_refused(llama: ModelPackage, tmp_path: Path) -> None:
    model = load_model(llama)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() + 1)
    with pytest.raises(InvalidModel, match=r"1 that the base has not \(lm_head.weight\)"):
        save_package(model, tmp_path / "tuned", like=llama)


def test_model_of_another_architecture_is_refused(llama: ModelPackage, phi3: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="are not those of tiny-llama: it lacks"):
        save_package(load_model(phi3), tmp_path / "tuned", like=llama)
    with pytest.raises(InvalidModel, match="the trained weights lack the tensor"):
        save_package(phi3.path, tmp_path / "tuned", like=llama)


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [(float("nan"), None, "not finite"), (1e5, "float16", "not finite once stored as float16")],
)
def test_values_that_are_not_finite_are_refused(
    llama: ModelPackage, tmp_path: Path, value: float, dtype: str | None, said: str
) -> None:
    model = load_model(llama)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = value
    with pytest.raises(InvalidModel, match=r"down_proj.weight has values that are not finite") as caught:
        save_package(model, tmp_path / "tuned", like=llama, dtype=dtype)
    assert caught.value.message.endswith(said)
    assert list(tmp_path.iterdir()) == []


def test_destination_that_is_there_and_dtype_that_is_not(llama: ModelPackage, tmp_path: Path) -> None:
    model = load_model(llama)
    with pytest.raises(AlreadyExists):
        save_package(model, tmp_path, like=llama)
    with pytest.raises(InvalidModel, match="cannot be stored as int8"):
        save_package(model, tmp_path / "tuned", like=llama, dtype="int8")


def test_tensor_missing_from_a_package_is_named_when_loaded(llama: ModelPackage, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from tunesmith.models.loading import load_folder

    folder = tmp_path / "folder"
    shutil.copytree(llama.path, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.7.mlp.down_proj.weight"] = tensors.pop("model.layers.1.mlp.down_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidModel, match=r"1 tensors are missing: model.layers.1.mlp.down_proj.weight"):
        load_folder(folder, dtype="float32")
