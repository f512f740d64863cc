"""The step cache: which outputs answer to a content key, and why a step did or did not find one.

A key is made of named parts (component, code, environment, each input, each parameter), so that a miss can be
explained: the parts are compared with those of the closest earlier run of the same component. Entries name outputs in
the folders of jobs; an entry whose files are gone or have other sizes does not count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.pipelines.fingerprints import environment_lock, hash_code, hash_modules, same_files, text_sha256
from tunesmith.pipelines.graph import GraphStep, LiteralInput, OutputInput, PathInput
from tunesmith.records.jobs import Part, StepExplanation
from tunesmith.storage.atomic import write_json, write_text
from tunesmith.storage.hashing import Hasher

MODULES = "code_modules"
"""Property of a component whose code is in installed packages: their names, with spaces between."""
LOOKED_AT = 500
"""How many entries, newest first, are compared to explain a miss."""


@dataclass(frozen=True, slots=True)
class CachedOutput:
    """One output of a step that ran."""

    type: str
    path: Path
    sha256: str
    files: tuple[tuple[str, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "type": self.type,
            "path": str(self.path),
            "sha256": self.sha256,
            "files": [list(f) for f in self.files],
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> CachedOutput:
        """From JSON."""
        files = tuple((str(name), int(size)) for name, size in body["files"])
        return cls(str(body["type"]), Path(body["path"]), str(body["sha256"]), files)

    @property
    def there(self) -> bool:
        """Whether its files are where they were written, with the sizes they had."""
        return same_files(self.path, self.files)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step's results lie: one job's step."""

    job: str
    step: str
    folder: Path
    """The step's folder, with its log and events."""
    outputs: Mapping[str, CachedOutput]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        outputs = {name: output.to_dict() for name, output in self.outputs.items()}
        return {"job": self.job, "step": self.step, "folder": str(self.folder), "outputs": outputs}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Place:
        """From JSON."""
        outputs = {name: CachedOutput.from_dict(output) for name, output in body["outputs"].items()}
        return cls(str(body["job"]), str(body["step"]), Path(body["folder"]), outputs)

    @property
    def there(self) -> bool:
        """Whether every output is still whole."""
        return all(output.there for output in self.outputs.values())


class StepCache:
    """Entries in ``<home>/cache/steps``, and the hashes that keys are made of.

    ``lock`` tells what is installed; it is asked once.
    """

    def __init__(self, folder: Path, hash_cache: Path, *, lock: Callable[[], list[str]] = environment_lock) -> None:
        self._folder = folder
        self._hasher = Hasher(hash_cache)
        self._read_lock = lock
        self._lock: list[str] | None = None

    def output(self, path: Path, type: str) -> CachedOutput:
        """Hash an output that was just written."""
        from tunesmith.pipelines.fingerprints import file_sizes

        return CachedOutput(type, path, self._hasher.tree(path), file_sizes(path))

    def parts(self, step: GraphStep, outputs: Mapping[tuple[str, str], CachedOutput]) -> list[Part]:
        """The named parts of a step's key. ``outputs``: by step and output, of the steps before it.

        Raises:
            NotFound: an input is no longer there.
        """
        component = f"{step.component}:{step.component_version}"
        found = [Part(name="component", sha256=step.component_sha256, value=component)]
        if step.code:
            found.append(Part(name="code", sha256=hash_code(Path(step.code)), value=step.code))
        elif MODULES in step.properties:
            modules = step.properties[MODULES]
            found.append(Part(name="code", sha256=hash_modules(modules), value=modules))
        found.append(Part(name="environment", sha256=self.environment(step)))
        variables = json.dumps(step.environment_variables, sort_keys=True)
        if step.environment_variables:
            found.append(Part(name="environment_variables", sha256=text_sha256(variables), value=_short(variables)))
        for name, binding in sorted(step.inputs.items()):
            if isinstance(binding, LiteralInput):
                value = binding.value
                found.append(Part(name=f"parameter:{name}", sha256=text_sha256(value), value=_short(value)))
            elif isinstance(binding, OutputInput):
                sha256 = outputs[binding.step, binding.output].sha256
                found.append(Part(name=f"input:{name}", sha256=sha256, value=f"{binding.step}/{binding.output}"))
            else:
                found.append(Part(name=f"input:{name}", sha256=self.path_sha256(binding), value=binding.reference))
        return found

    def path_sha256(self, binding: PathInput) -> str:
        """Hash of what an input names; for a model whose weights are still to be fetched, of where they come from."""
        path = Path(binding.path)
        if binding.model is not None and not path.exists():
            return text_sha256(f"{binding.reference}\0{binding.model.source}")
        return self._hasher.tree(path)

    def environment(self, step: GraphStep) -> str:
        """Hash of what is installed and of the environment that the component names."""
        if self._lock is None:
            self._lock = self._read_lock()
        lock = "\n".join(self._lock)
        sha256 = text_sha256(lock)
        kept = self._folder.parent / "environments" / f"{sha256}.txt"
        if not kept.exists():
            write_text(kept, lock + "\n")
        return sha256

    def find(self, key: str) -> Place | None:
        """The first place whose outputs are whole, or ``None``."""
        return next((place for place in self._places(self._folder / f"{key}.json") if place.there), None)

    def store(self, key: str, component: str, parts: Sequence[Part], place: Place) -> None:
        """Remember a place; it joins the earlier ones of the same key, which may vanish with their jobs."""
        entry = self._folder / f"{key}.json"
        places = [
            place,
            *(other for other in self._places(entry) if (other.job, other.step) != (place.job, place.step)),
        ]
        body = {
            "key": key,
            "component": component,
            "parts": [part.model_dump() for part in parts],
            "places": [other.to_dict() for other in places if other.folder.exists()],
        }
        write_json(entry, body)

    def explain_miss(self, job: str, step: GraphStep, parts: Sequence[Part]) -> StepExplanation:
        """Why no entry answers: the parts in which the closest run of the component before ``job`` differs.

        A run of the same node is closer than any of another node that has the same component.
        """
        closest: tuple[tuple[bool, int], list[str], str] | None = None
        entries = sorted(self._folder.glob("*.json"), key=_modified, reverse=True)
        for entry in entries[:LOOKED_AT]:
            body = _read(entry)
            if body is None or body.get("component") != step.component:
                continue
            places = body.get("places") or [{"job": "a deleted job", "step": step.name}]
            if all(place["job"] == job for place in places):
                continue
            where = f"{places[0]['job']}/{places[0]['step']}"
            before = [Part.model_validate(part) for part in body.get("parts", ())]
            changed = self.changes(before, parts)
            if not changed:
                return StepExplanation(
                    step=step.name,
                    reused=False,
                    reason=f"same as {where}, whose outputs are no longer there",
                    parts=list(parts),
                )
            distance = (all(place["step"] != step.name for place in places), len(changed))
            if closest is None or distance < closest[0]:
                closest = (distance, changed, where)
        if closest is None:
            reason = f"the first run of {step.component}"
            return StepExplanation(step=step.name, reused=False, reason=reason, parts=list(parts))
        count = "1 part" if len(closest[1]) == 1 else f"{len(closest[1])} parts"
        reason = f"{count} changed since {closest[2]}"
        return StepExplanation(step=step.name, reused=False, reason=reason, changed=closest[1], parts=list(parts))

    def changes(self, before: Sequence[Part], now: Sequence[Part]) -> list[str]:
        """The parts in which two keys differ, a line each."""
        old = {part.name: part for part in before}
        new = {part.name: part for part in now}
        lines: list[str] = []
        for name, part in new.items():
            other = old.get(name)
            if other is None:
                lines.append(f"{name} is new" + (f" ({part.value})" if part.value else ""))
            elif other.sha256 != part.sha256:
                lines.append(f"{name} changed ({self._difference(name, other, part)})")
        lines += [f"{name} is gone" for name in old if name not in new]
        return lines

    def _difference(self, name: str, before: Part, now: Part) -> str:
        if name == "environment":
            old, new = (self._kept_lock(part.sha256) for part in (before, now))
            if old is not None and new is not None:
                shown = [f"-{line}" for line in sorted(old - new)] + [f"+{line}" for line in sorted(new - old)]
                return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")
        if name.startswith("parameter:") and before.value is not None and now.value is not None:
            return f"{before.value} -> {now.value}"
        return f"{before.sha256[:8]}… -> {now.sha256[:8]}…"

    def _kept_lock(self, sha256: str) -> set[str] | None:
        try:
            return set((self._folder.parent / "environments" / f"{sha256}.txt").read_text("utf-8").split())
        except OSError:
            return None

    def _places(self, entry: Path) -> list[Place]:
        body = _read(entry)
        if body is None:
            return []
        with suppress(KeyError, TypeError, ValueError):
            return [Place.from_dict(place) for place in body["places"]]
        return []


def key_of(parts: Sequence[Part]) -> str:
    """The content key of named parts."""
    return text_sha256("\n".join(f"{part.name}={part.sha256}" for part in sorted(parts, key=lambda part: part.name)))


def _read(entry: Path) -> dict[str, Any] | None:
    try:
        body = json.loads(entry.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
