"""LoRA adapters in PEFT's format, read for serving: several over one base, each token with its own.

The matrices of all adapters stand side by side: for a layer, ``down`` is ``[ranks, in]`` and ``up`` ``[out, ranks]``,
where ``ranks`` is the sum over the adapters. The matrices are already scaled; a token's mask has one at its adapter's
ranks and zero elsewhere, so one pass may hold tokens of any adapters and of none.

Needs numpy and safetensors only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import InvalidModel
from tunesmith.models.adapter_files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE

PREFIX = "base_model.model."
Matrix = NDArray[np.float32]

_KEY = re.compile(rf"^{re.escape(PREFIX)}(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One adapter: for each module its ``down`` (``[rank, in]``) and ``up`` (``[out, rank]``), already scaled."""

    name: str
    modules: Mapping[str, tuple[Matrix, Matrix]]

    @property
    def rank(self) -> int:
        """The largest rank of its modules."""
        return max((down.shape[0] for down, _ in self.modules.values()), default=0)


class AdapterStack:
    """Several adapters, side by side."""

    def __init__(self, adapters: Iterable[Adapter]) -> None:
        self.adapters = {adapter.name: adapter for adapter in adapters}
        self.modules = sorted({module for adapter in self.adapters.values() for module in adapter.modules})
        self._at: dict[str, slice] = {}
        at = 0
        for name, adapter in self.adapters.items():
            self._at[name] = slice(at, at + adapter.rank)
            at += adapter.rank
        self.rank = at
        """The sum of ranks."""

    def __contains__(self, module: object) -> bool:
        return any(module in adapter.modules for adapter in self.adapters.values())

    def matrices(self, module: str) -> tuple[Matrix, Matrix]:
        """``down`` ``[ranks, in]`` and ``up`` ``[out, ranks]`` of a layer; zero where an adapter leaves it alone."""
        shapes = [adapter.modules[module] for adapter in self.adapters.values() if module in adapter.modules]
        down = np.zeros((self.rank, shapes[0][0].shape[1]), np.float32)
        up = np.zeros((shapes[0][1].shape[0], self.rank), np.float32)
        for name, adapter in self.adapters.items():
            if module in adapter.modules:
                own_down, own_up = adapter.modules[module]
                start = self._at[name].start
                down[start : start + own_down.shape[0]] = own_down
                up[:, start : start + own_down.shape[0]] = own_up
        return down, up

    def mask(self, names: Sequence[str | None]) -> Matrix:
        """``[tokens, ranks]``: one at the ranks of each token's adapter, zero elsewhere."""
        mask = np.zeros((len(names), self.rank), np.float32)
        for token, name in enumerate(names):
            if name is not None:
                mask[token, self._at[name]] = 1.0
        return mask


def read_adapters(folders: Mapping[str, Path], modules: Mapping[str, tuple[int, int]]) -> AdapterStack:
    """Read adapters for a base whose linear layers are ``modules``: name → (in, out).

    Raises ``InvalidModel`` that names the adapter for what is no LoRA adapter, does not fit the base, or does what
    cannot be served beside others.
    """
    return AdapterStack([read_adapter(name, folder, modules) for name, folder in folders.items()])


def read_adapter(name: str, folder: Path, modules: Mapping[str, tuple[int, int]]) -> Adapter:
    """One adapter; see ``read_adapters``."""
    from safetensors import safe_open

    target = f"adapters.{name}"
    config = _config(folder, target)
    found: dict[str, dict[str, Matrix]] = {}
    strange = []
    halves = _Halves(folder / ADAPTER_WEIGHTS_FILE)
    with safe_open(str(folder / ADAPTER_WEIGHTS_FILE), framework="np") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            matched = _KEY.match(key)
            if matched is None:
                strange.append(key)
                continue
            found.setdefault(matched["module"], {})[matched["side"]] = _float(file, key, halves)
    if strange:
        raise _refused(target, folder, f"it holds {strange[0]}, which is no LoRA matrix of a linear layer")
    scaled = {}
    for module, sides in found.items():
        if set(sides) != {"A", "B"}:
            raise _refused(target, folder, f"it has only one of the two matrices of {module}")
        down, up = sides["A"], sides["B"]
        if module not in modules:
            raise _refused(target, folder, f"the base has no linear layer {module}")
        if (down.shape[1], up.shape[0]) != modules[module] or down.shape[0] != up.shape[1]:
            wanted = " × ".join(map(str, modules[module]))
            raise _refused(
                target, folder, f"its matrices for {module} are {down.shape} and {up.shape}; the layer is {wanted}"
            )
        scaled[module] = (down, np.float32(_scale(config, module, down.shape[0])) * up)
    if not scaled:
        raise _refused(target, folder, "it holds no LoRA matrices")
    return Adapter(name, scaled)


def adapter_rank(name: str, folder: Path) -> int:
    """The largest rank an adapter's configuration names; ``InvalidModel`` for what is no LoRA adapter."""
    config = _config(folder, f"adapters.{name}")
    return max([int(config.get("r", 8)), *map(int, (config.get("rank_pattern") or {}).values())])


def _config(folder: Path, target: str) -> dict[str, Any]:
    for file in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise _refused(target, folder, f"it has no {file}")
    try:
        config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(target, folder, f"{ADAPTER_CONFIG_FILE} cannot be read: {error}") from None
    if config.get("peft_type") != "LORA":
        raise _refused(target, folder, f"it is {config.get('peft_type')!r}, not LORA")
    for field in ("use_dora", "modules_to_save", "lora_bias", "trainable_token_indices", "layer_replication"):
        if config.get(field):
            raise _refused(target, folder, f"it uses {field}")
    if config.get("bias", "none") != "none":
        raise _refused(target, folder, f"it has biases (bias: {config['bias']})")
    return config


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """PEFT's: alpha / r, or alpha / √r with ``use_rslora``, by the module's own alpha and rank."""
    alpha = _pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", 8))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


class _Halves:
    """The tensors of a file in bfloat16, which numpy does not know; read when the first is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors: dict[str, dict[str, Any]] | None = None

    def widened(self, key: str) -> Matrix:
        """A tensor in float32."""
        if self._tensors is None:
            from safetensors import deserialize

            self._tensors = dict(deserialize(self._path.read_bytes()))  # type: ignore[no-untyped-call]
        tensor = self._tensors[key]
        halves = np.frombuffer(tensor["data"], np.uint16).astype(np.uint32) << 16
        widened: Matrix = halves.view(np.float32).reshape(tensor["shape"])
        return widened


def _float(file: Any, key: str, halves: _Halves) -> Matrix:
    if file.get_slice(key).get_dtype() == "BF16":
        return halves.widened(key)
    return np.asarray(file.get_tensor(key), np.float32)


def _refused(target: str, folder: Path, cause: str) -> InvalidModel:
    return InvalidModel(
        f"the adapter at {folder} cannot be served beside others: {cause}",
        target=target,
        way_out="merge it into its base and serve the merged model",
    )
