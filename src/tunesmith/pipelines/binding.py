"""From given values to bindings: literals against type, enum and bounds, paths against what is there, rules over both.

Every fault is kept with the path of its field, and told once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tunesmith.errors import Fault, TunesmithError
from tunesmith.pipelines.graph import Binding, LiteralInput, OutputInput, PathInput
from tunesmith.pipelines.resolver import Resolver
from tunesmith.pipelines.schema import Component, InputSpec
from tunesmith.pipelines.values import LITERAL_TYPES, PATH_TYPES, canonical, did_you_mean, show

IMPORTS = "imports_models"
"""Property of a component that may be given a model whose weights are not here yet."""
CHECK = "check"
"""Property of a component that names a rule for its values."""
FILE_TYPES = ("uri_file",)


@dataclass(frozen=True, slots=True)
class Given:
    """A raw value from outside, with the field it was given in."""

    value: Any
    target: str
    base: Path | None
    """Where a relative path in it starts."""


class Faulty:
    """Stands for a value whose fault is already known, so that it is told once."""


FAULTY = Faulty()
Value: TypeAlias = Given | LiteralInput | PathInput | OutputInput | Faulty | None


class Binder:
    """Binds values to the inputs of components, and keeps the faults."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.faults: list[Fault] = []

    def fault(self, target: str, message: str, way_out: str | None = None, code: str = "Invalid") -> None:
        """Keep a fault of the field ``target``."""
        self.faults.append(Fault(message, target, code, way_out))

    def error(self, target: str, error: TunesmithError) -> None:
        """Keep the faults of another room's error under this field; its target is told where it says more."""
        if error.details:
            for fault in error.details:
                place = f"{target}: {fault.target}" if fault.target else target
                self.faults.append(Fault(fault.message, place, fault.code, fault.way_out))
            return
        named = error.target and error.target not in (target, target.rpartition(".")[2])
        message = f"{error.target}: {error.message}" if named else error.message
        self.faults.append(Fault(message, target, error.code, error.way_out))

    def bind_inputs(self, component: Component, values: Mapping[str, Value], place: str) -> dict[str, Binding | Faulty]:
        """The bindings of a component's inputs: given values, else defaults."""
        bound: dict[str, Binding | Faulty] = {}
        for key in values:
            if key not in component.inputs:
                self.fault(
                    f"{place}inputs.{key}",
                    f"the component {component.name} has no input {key!r}",
                    did_you_mean(key, component.inputs) or f"inputs: {', '.join(component.inputs) or 'none'}",
                    "UnknownName",
                )
        for key, spec in component.inputs.items():
            value = values.get(key)
            target = value.target if isinstance(value, Given) else f"{place}inputs.{key}"
            if isinstance(value, Given) and value.value is None:
                value = None
            if value is None:
                if spec.default is not None:
                    bound[key] = LiteralInput(type=spec.type, value=spec.default)
                elif not spec.optional:
                    self.fault(target, f"is required by {component.name}: a {spec.type}", code="Required")
                    bound[key] = FAULTY
                continue
            bound[key] = self.bind(spec, value, target)
        return bound

    def bind(self, spec: InputSpec, value: Value, target: str) -> Binding | Faulty:
        """The binding of one given value to one declared input."""
        if isinstance(value, Faulty) or value is None:
            return FAULTY
        if isinstance(value, OutputInput | PathInput):
            if spec.literal:
                self.fault(target, f"must be a {spec.type}, and a file or folder is given")
                return FAULTY
            if (value.type in FILE_TYPES) != (spec.type in FILE_TYPES):
                self.fault(target, f"must be a {spec.type}, and a {value.type} is given")
                return FAULTY
            return value
        if spec.literal:
            return self.literal(spec, value.value, target)
        return self.path(spec, value.value, value.base if isinstance(value, Given) else None, target)

    def literal(self, spec: InputSpec, raw: Any, target: str) -> Binding | Faulty:
        """A text, number or boolean."""
        if isinstance(raw, Mapping):
            kind = str(raw.get("type", "")).lower()
            if "value" not in raw or (kind and kind not in LITERAL_TYPES):
                self.fault(target, f"must be a {spec.type}, got {show(dict(raw))}", "give the value itself")
                return FAULTY
            raw = raw["value"]
        try:
            return LiteralInput(type=spec.type, value=canonical(spec, raw))
        except ValueError as error:
            self.fault(target, str(error))
            return FAULTY

    def path(self, spec: InputSpec, raw: Any, base: Path | None, target: str) -> Binding | Faulty:
        """A file or folder, given as text or as ``{type, path}``."""
        kind = spec.type
        if isinstance(raw, Mapping):
            for key in raw:
                if key not in ("type", "path", "mode", "description"):
                    hint = did_you_mean(str(key), ("type", "path", "mode"))
                    self.fault(f"{target}.{key}", f"unknown field {key!r}", hint, "UnknownField")
            kind = str(raw.get("type") or spec.type).lower()
            if kind not in PATH_TYPES:
                self.fault(
                    f"{target}.type", f"is no path type: {show(raw.get('type'))}", did_you_mean(kind, PATH_TYPES)
                )
                return FAULTY
            if (kind in FILE_TYPES) != (spec.type in FILE_TYPES):
                self.fault(f"{target}.type", f"must be {spec.type}, got {kind}")
                return FAULTY
            raw = raw.get("path")
        if not isinstance(raw, str) or not raw.strip():
            self.fault(target, f"must be the path of a {spec.type}, got {show(raw)}")
            return FAULTY
        return self.local_path(spec, raw, base, target)

    def local_path(self, spec: InputSpec, text: str, base: Path | None, target: str) -> Binding | Faulty:
        """What a path or a reference leads to on this machine."""
        if text.startswith("azureml:"):
            try:
                found = self.resolver.path(text, spec.type)
            except TunesmithError as error:
                self.error(target, error)
                return FAULTY
            path, reference, model = found.path, found.reference, found.model
        else:
            located = self.locate(text, base, target)
            if located is None:
                return FAULTY
            path, reference, model = located, str(located), None
        if model is None and not self.exists(path, spec.type, target):
            return FAULTY
        return PathInput(type=spec.type, path=str(path), reference=reference, model=model)

    def locate(self, text: str, base: Path | None, target: str) -> Path | None:
        """The absolute path that ``text`` means; relative ones start at ``base``."""
        if "://" in text and not text.startswith("file://"):
            self.fault(
                target, f"is an address, not a file of this machine: {show(text)}", "download it and give the path"
            )
            return None
        path = Path(text.removeprefix("file://").removeprefix("file:")).expanduser()
        if path.is_absolute():
            return path
        if base is None:
            self.fault(
                target, f"is a relative path, and the job has no base_path: {show(text)}", "give the absolute path"
            )
            return None
        return (base / path).resolve()

    def exists(self, path: Path, kind: str, target: str) -> bool:
        """Whether a path is there and of the right kind."""
        if not path.exists():
            self.fault(target, f"there is no such file or folder: {path}", code="NotFound")
        elif kind in FILE_TYPES and not path.is_file():
            self.fault(target, f"must be a file (uri_file), and {path} is a folder")
        elif kind == "mltable" and not (path.is_dir() or path.name == "MLTable"):
            self.fault(target, f"must be a folder with an MLTable file, and {path} is a file")
        elif kind not in (*FILE_TYPES, "mltable") and not path.is_dir():
            self.fault(target, f"must be a folder ({kind}), and {path} is a file")
        else:
            return True
        return False

    def check_groups(self, component: Component, bound: Mapping[str, Any], place: str) -> None:
        """``exactly_one_of`` and ``at_most_one_of`` in a component's properties: groups of inputs, ``;`` between."""
        for rule, least in (("exactly_one_of", 1), ("at_most_one_of", 0)):
            for group in filter(None, component.properties.get(rule, "").split(";")):
                names = [name.strip() for name in group.split(",")]
                given = [name for name in names if name in bound]
                if least <= len(given) <= 1:
                    continue
                said = f"{' and '.join(given)} are" if given else "none is"
                need = "exactly one" if least else "at most one"
                self.fault(
                    f"{place}inputs", f"{need} of {', '.join(names)} must be given, and {said}", code="ExactlyOne"
                )

    def check_rule(self, component: Component, bound: Mapping[str, Any], place: str) -> None:
        """The component's own rule, for values that are right one by one but not together."""
        rule = component.properties.get(CHECK)
        if rule is None:
            return
        values = {key: value.value for key, value in bound.items() if isinstance(value, LiteralInput)}
        for fault in self.resolver.check(rule, values):
            target = f"{place}inputs.{fault.target}" if fault.target else f"{place}inputs"
            self.faults.append(Fault(fault.message, target, fault.code, fault.way_out))

    def check_models(self, component: Component, bound: Mapping[str, Any], place: str) -> None:
        """A model whose weights are not here is only for a component that fetches them."""
        if component.properties.get(IMPORTS, "").lower() == "true":
            return
        for key, value in bound.items():
            if isinstance(value, PathInput) and value.model is not None and not Path(value.path).exists():
                self.fault(
                    f"{place}inputs.{key}",
                    f"the weights of {value.reference} are not on this machine",
                    f"tunesmith models import {value.model.name}",
                    "NotFound",
                )
