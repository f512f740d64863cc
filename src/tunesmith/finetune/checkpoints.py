"""Checkpoints: whole or not there.

    checkpoint-00000005/
        manifest.json       sha256 and bytes of the other files; written last
        state.json          numbers and the structure
        state.safetensors   every tensor

A checkpoint is written aside, synced and renamed. One that a kill cut short never gets its name; one that was damaged
later does not fit its manifest and is passed over, said. No pickle is written or read.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.errors import Failure
from tunesmith.finetune.files import disk_full, new_folder, sha256_file, write_text
from tunesmith.reporting import Reporter

_NAME = re.compile(r"checkpoint-(\d{8})$")
_MARGIN = 1.1
"""Free space wanted for a checkpoint, as a multiple of its size."""


class Checkpoints:
    """The checkpoints of one run in ``folder``. ``keep`` is ``save_total_limit`` (-1: all)."""

    def __init__(self, folder: Path, *, keep: int, reporter: Reporter) -> None:
        self.folder = folder
        self._keep = keep
        self._reporter = reporter
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".checkpoint-*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)

    def steps(self) -> list[int]:
        """The optimiser steps with a checkpoint, ascending."""
        found = [_NAME.search(path.name) for path in self.folder.iterdir() if path.is_dir()]
        return sorted(int(match.group(1)) for match in found if match)

    def path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is."""
        return self.folder / f"checkpoint-{step:08d}"

    def save(self, step: int, state: dict[str, Any], *, best: int | None) -> Path:
        """Write the checkpoint of ``step``, then remove what ``keep`` no longer holds (never the last nor the
        ``best``).

        Raises:
            DiskFull: there is no room; nothing is left behind and earlier checkpoints stay.
            Failure: the folder is gone, or cannot be written.
        """
        from safetensors import SafetensorError

        try:
            return self._save(step, state, best)
        except (OSError, SafetensorError) as error:
            last = [known for known in self._whole() if known != step]
            kept = f"the last whole checkpoint is {self.path(last[-1])}" if last else "no earlier checkpoint is left"
            cause = getattr(error, "strerror", None) or str(error)
            raise Failure(
                f"the checkpoint of optimiser step {step} could not be written: {cause}; {kept}",
                target=str(self.folder),
                way_out="bring the disk back, then go on with resume_from_checkpoint true",
            ) from error

    def _whole(self) -> list[int]:
        try:
            return self.steps()
        except OSError:
            return []

    def _save(self, step: int, state: dict[str, Any], best: int | None) -> Path:
        from safetensors.torch import save_file

        if not self.folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the folder of the checkpoints is gone")
        tensors: dict[str, Tensor] = {}
        body = json.dumps(_flatten(state, tensors), allow_nan=True)
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) + len(body)
        if shutil.disk_usage(self.folder).free < needed * _MARGIN:
            raise disk_full(self.folder, needed)
        with new_folder(self.path(step)) as aside:
            save_file(tensors, aside / "state.safetensors")
            write_text(aside / "state.json", body)
            files = {
                name: {"sha256": sha256_file(aside / name), "bytes": (aside / name).stat().st_size}
                for name in ("state.json", "state.safetensors")
            }
            write_text(aside / "manifest.json", json.dumps({"step": step, "files": files}, indent=2) + "\n")
        self._prune(step, best)
        return self.path(step)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest whole checkpoint, or ``None``."""
        for step in reversed(self.steps()):
            fault = self._fault(step)
            if fault is None:
                return step, self.load(step)
            self._reporter.notice("CheckpointDamaged", f"{self.path(step).name} is passed over: {fault}", count=1)
        return None

    def load(self, step: int) -> dict[str, Any]:
        """The state of ``step``, on the CPU."""
        from safetensors.torch import load_file

        folder = self.path(step)
        tensors = load_file(folder / "state.safetensors")
        state = _unflatten(json.loads((folder / "state.json").read_text(encoding="utf-8")), tensors)
        if not isinstance(state, dict):
            raise ValueError(f"{folder} holds no state")
        return state

    def clear(self) -> None:
        """Remove every checkpoint: a run that does not resume starts afresh."""
        for step in self.steps():
            shutil.rmtree(self.path(step))

    def _fault(self, step: int) -> str | None:
        folder = self.path(step)
        try:
            files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        except (OSError, ValueError, KeyError) as error:
            return f"its manifest cannot be read ({error})"
        for name, entry in files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                return f"{name} was cut short"
            if sha256_file(path) != entry["sha256"]:
                return f"{name} was changed"
        return None

    def _prune(self, last: int, best: int | None) -> None:
        if self._keep < 0:
            return
        steps = self.steps()
        spare = [step for step in steps if step not in (last, best)]
        for step in spare[: max(0, len(steps) - max(self._keep, 1))]:
            shutil.rmtree(self.path(step), ignore_errors=True)


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for ``value``; its tensors go to ``tensors``."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_flatten(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in inner}
    items = [_unflatten(item, tensors) for item in inner]
    return tuple(items) if kind == "tuple" else items


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """One hash over named weights: names, shapes, types and every bit."""
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
