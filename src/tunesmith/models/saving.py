"""From trained weights to a package: the tensors are new, everything else is the base package's, byte for byte.

Configuration, tokenizer and chat contract are taken from the base and not from the model in memory, so that nothing
about a model changes by being saved. The weights are written tensor by tensor in the base's layout of files; memory
holds one more tensor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import AlreadyExists, InvalidModel
from tunesmith.models.adapter_files import TUNED
from tunesmith.models.facts import CONFIG_FILE
from tunesmith.models.files import require_room, written_aside
from tunesmith.models.importing import make_package
from tunesmith.models.package import ModelPackage, Origin
from tunesmith.models.weights import (
    DTYPE_BYTES,
    DTYPE_NAMES,
    INDEX_FILE,
    SafetensorsWriter,
    TensorInfo,
    read_tensors,
)
from tunesmith.reporting import NullReporter, Reporter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    GetTensor = Callable[[str], torch.Tensor]

_STORED = {name: code for code, name in DTYPE_NAMES.items()}


def save_package(
    model: PreTrainedModel | Path,
    destination: Path,
    *,
    like: ModelPackage,
    dtype: str | torch.dtype | None = None,
    name: str | None = None,
    reporter: Reporter | None = None,
) -> ModelPackage:
    """Write a package with the weights of ``model`` and everything else of ``like``, its base.

    ``model`` is a transformers model, or a folder with safetensors (a checkpoint of a full fine-tune). ``dtype`` is
    what the weights are stored in, the base's when left out. The model must have exactly the base's tensors in the
    base's shapes: a resized vocabulary or an output layer that is no longer tied raises ``InvalidModel`` that names
    the tensor. Raises ``AlreadyExists`` when ``destination`` is there, and ``DiskFull``; nothing half-made is left.
    """
    reporter = reporter or NullReporter()
    if destination.exists():
        raise AlreadyExists("there is something at this path already", target=str(destination))
    with written_aside(destination, f"the tuned {like.manifest.name}") as aside:
        hashes = write_like(model, aside, like=like, dtype=dtype_name(dtype, like), reporter=reporter)
        make_package(
            aside,
            name=name or like.manifest.name,
            origin=Origin(source=f"{TUNED}{like.sha256}"),
            license=like.manifest.license,
            hashes=hashes,
            keep_contract=True,
            reporter=reporter,
        )
    return ModelPackage.open(destination)


def dtype_name(dtype: str | torch.dtype | None, like: ModelPackage) -> str:
    """A dtype by torch's name, such as ``bfloat16``; that of ``like`` for ``None`` and ``"auto"``."""
    name = like.manifest.dtype if dtype in (None, "auto") else str(dtype).removeprefix("torch.")
    if name not in _STORED:
        raise InvalidModel(f"weights cannot be stored as {name}", way_out=f"choose one of {', '.join(sorted(_STORED))}")
    return name


def write_like(
    model: PreTrainedModel | Path, folder: Path, *, like: ModelPackage, dtype: str, reporter: Reporter
) -> dict[str, str]:
    """Write the files of a package but its manifest into the new ``folder``; returns the hashes that are known
    already."""
    tensors = read_tensors(like.path)
    get = _tensors_in(model) if isinstance(model, Path) else _tensors_of(model, tensors, like)
    total = sum(tensor.elements for tensor in tensors.values()) * DTYPE_BYTES[_STORED[dtype]]
    require_room(folder, total, f"the tuned {like.manifest.name}")
    hashes = {}
    for name, entry in like.manifest.files.items():
        if name.endswith(".safetensors") or name in {INDEX_FILE, CONFIG_FILE, "merge_report.json"}:
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(like.path / name, folder / name)  # small; a package shares no file with another
        hashes[name] = entry.sha256
    _write_config(folder, like, dtype)
    done = 0
    for file, members in _by_file(tensors).items():
        announced = [(tensor.name, _STORED[dtype], tensor.shape) for tensor in members]
        with SafetensorsWriter(folder / file, announced) as writer:
            for tensor in members:
                writer.write(tensor.name, _bytes(get(tensor.name), tensor, dtype))
                done += tensor.elements * DTYPE_BYTES[_STORED[dtype]]
                reporter.progress("save", done, total, unit="bytes")
        hashes[file] = writer.sha256
    if (like.path / INDEX_FILE).is_file():
        index = json.loads((like.path / INDEX_FILE).read_text(encoding="utf-8"))
        index["metadata"] = {**index.get("metadata", {}), "total_size": total}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return hashes


def _by_file(tensors: Mapping[str, TensorInfo]) -> dict[str, list[TensorInfo]]:
    files: dict[str, list[TensorInfo]] = {}
    for tensor in tensors.values():
        files.setdefault(tensor.file, []).append(tensor)
    return files


def _write_config(folder: Path, like: ModelPackage, dtype: str) -> None:
    config = like.config()
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = dtype
    if "dtype" not in config:
        config["torch_dtype"] = dtype
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _tensors_of(model: PreTrainedModel, expected: Mapping[str, TensorInfo], like: ModelPackage) -> GetTensor:
    """The tensors of a model in memory by the names they are stored under."""
    from transformers.core_model_loading import revert_weight_conversion

    state = revert_weight_conversion(model, model.state_dict())
    missing = sorted(name for name in expected if name not in state)
    # A tied output layer is the embedding itself under a second name; only a different one would be lost.
    extra = [name for name in state if name not in expected and not _same_as_embedding(name, state)]
    if missing or extra:
        parts = [f"it lacks {len(missing)} ({', '.join(missing[:2])})"] if missing else []
        parts += [f"it has {len(extra)} that the base has not ({', '.join(sorted(extra)[:2])})"] if extra else []
        raise InvalidModel(
            f"the tensors of the trained model are not those of {like.manifest.name}: {' and '.join(parts)}",
            target=str(like.path),
            way_out="train without new tokens and with the output layer as the base has it, and give the base that "
            "was trained",
        )
    return lambda name: state[name]


def _same_as_embedding(name: str, state: Mapping[str, torch.Tensor]) -> bool:
    if not name.endswith("lm_head.weight"):
        return False
    embedding = next((tensor for key, tensor in state.items() if key.endswith("embed_tokens.weight")), None)
    head = state[name]
    if embedding is None or embedding.shape != head.shape:
        return False
    return head.data_ptr() == embedding.data_ptr() or bool((head == embedding).all())


def _tensors_in(folder: Path) -> GetTensor:
    """The tensors of a folder with safetensors."""
    from safetensors import safe_open

    found = read_tensors(folder)

    def get(name: str) -> torch.Tensor:
        if name not in found:
            raise InvalidModel(
                f"the trained weights lack the tensor {name}",
                target=str(folder),
                way_out="give the folder of a whole model of the same architecture as its base",
            )
        with safe_open(folder / found[name].file, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    return get


def _bytes(tensor: torch.Tensor, expected: TensorInfo, dtype: str) -> Iterator[memoryview]:
    import torch

    if tuple(tensor.shape) != expected.shape:
        raise InvalidModel(
            f"the tensor {expected.name} has the shape {tuple(tensor.shape)} and its base {expected.shape}",
            way_out="train without changing the vocabulary or the layers, and give the base that was trained",
        )
    stored = tensor.detach().to(device="cpu", dtype=getattr(torch, dtype)).contiguous()
    if not bool(torch.isfinite(stored).all()):
        as_stored = f" once stored as {dtype}" if bool(torch.isfinite(tensor).all()) else ""
        raise InvalidModel(
            f"the tensor {expected.name} has values that are not finite{as_stored}",
            way_out="train with a smaller learning rate, or store the weights as bfloat16 or float32",
        )
    yield stored.view(-1).view(torch.uint8).numpy().data
