"""Reads components and nodes: from mappings to value objects, with every fault named by its field.

Reads no files and resolves no references.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.errors import Fault, ValidationFailed
from tunesmith.pipelines import expressions
from tunesmith.pipelines.schema import WAIVED, CommandComponent, InputSpec, NodeSpec, OutputSpec, PipelineComponent
from tunesmith.pipelines.values import LITERAL_TYPES, PATH_TYPES, canonical, did_you_mean, show
from tunesmith.storage import names

MODES = ("ro_mount", "rw_mount", "mount", "download", "upload", "direct", "eval_mount", "eval_download")

_COMMON = {
    "$schema", "type", "name", "version", "display_name", "description", "tags", "properties", "is_deterministic",
    "inputs", "outputs",
}  # fmt: skip
_COMMAND = _COMMON | {
    "command", "code", "environment", "environment_variables", "resources", "distribution", "limits",
    "additional_includes",
}  # fmt: skip
_PIPELINE = _COMMON | {"jobs", "settings"}
_NODE = {
    "type", "name", "component", "inputs", "outputs", "compute", "environment_variables", "resources", "distribution",
    "limits", "display_name", "description", "tags", "properties", "comment", "identity", "services",
}  # fmt: skip
_INLINE = {"command", "code", "environment"}
_INPUT = {"type", "description", "default", "optional", "enum", "min", "max", "mode", "datastore"}
_OUTPUT = {"type", "description", "mode", "early_available", "path"}


def parse_component(spec: Mapping[str, Any], *, target: str = "") -> CommandComponent | PipelineComponent:
    """The component in ``spec``; ``target`` is put before the names of fields.

    Raises:
        ValidationFailed: with every fault found.
    """
    reader = _Reader(target)
    component = reader.component(spec)
    if component is None or reader.faults:
        name = spec.get("name") if isinstance(spec, Mapping) else None
        count = "1 fault" if len(reader.faults) == 1 else f"{len(reader.faults)} faults"
        raise ValidationFailed(f"the component {name or ''} has {count}".replace("  ", " "), details=reader.faults)
    return component


def parse_node(name: str, body: Any, *, target: str) -> tuple[NodeSpec | None, list[Fault]]:
    """A node of a pipeline or of a job, with the faults found; ``None`` when it cannot be used at all."""
    reader = _Reader("")
    node = reader.node(name, body, target)
    return node, reader.faults


class _Reader:
    """Reads parts and keeps the faults."""

    def __init__(self, target: str) -> None:
        self.faults: list[Fault] = []
        self._target = target

    def fault(self, target: str, message: str, way_out: str | None = None, code: str = "Invalid") -> None:
        place = f"{self._target}.{target}" if self._target and target else self._target or target
        self.faults.append(Fault(message, place or None, code, way_out))

    # ── whole components ────────────────────────────────────────────────────────────────────────────────────────

    def component(self, spec: Any) -> CommandComponent | PipelineComponent | None:
        if not isinstance(spec, Mapping):
            self.fault("", f"must be a mapping, got {show(spec)}")
            return None
        kind = str(spec.get("type") or ("pipeline" if "jobs" in spec else "command"))
        if kind not in ("command", "pipeline"):
            self.fault(
                "type", f"must be command or pipeline, got {show(kind)}", did_you_mean(kind, ("command", "pipeline"))
            )
            return None
        self.unknown(spec, _COMMAND if kind == "command" else _PIPELINE, "")
        inputs = self.inputs(spec.get("inputs"))
        outputs = self.outputs(spec.get("outputs"))
        deterministic = self.boolean(spec.get("is_deterministic", True), "is_deterministic")
        common: dict[str, Any] = {
            "name": self.name(spec.get("name")),
            "version": str(spec.get("version", "1")),
            "display_name": self.text(spec.get("display_name"), "display_name"),
            "description": self.text(spec.get("description"), "description"),
            "inputs": inputs,
            "outputs": outputs,
            "tags": self.strings(spec.get("tags"), "tags"),
            "properties": self.strings(spec.get("properties"), "properties"),
            "is_deterministic": deterministic,
            "spec": dict(spec),
        }
        if kind == "pipeline":
            return PipelineComponent(**common, nodes=self.nodes(spec.get("jobs")))
        return self.command(spec, common)

    def command(self, spec: Mapping[str, Any], common: dict[str, Any]) -> CommandComponent:
        command = spec.get("command")
        if not isinstance(command, str) or not command.strip():
            self.fault("command", "is required: the command line of the step" if command is None else "must be text")
            command = ""
        self.check_command(command, common["inputs"], common["outputs"])
        code = spec.get("code")
        if code is not None and not isinstance(code, str):
            self.fault("code", f"must be the path of a folder, got {show(code)}")
            code = None
        if spec.get("additional_includes"):
            self.fault("additional_includes", "is not supported here", "put what the step needs into the code folder")
        environment = spec.get("environment")
        if environment is not None and not isinstance(environment, str | Mapping):
            self.fault("environment", f"must be a reference or a mapping, got {show(environment)}")
            environment = None
        return CommandComponent(
            **common,
            command=command,
            code=code,
            environment=environment,
            environment_variables=self.strings(spec.get("environment_variables"), "environment_variables"),
            resources=self.mapping(spec.get("resources"), "resources"),
        )

    def check_command(self, command: str, inputs: Mapping[str, InputSpec], outputs: Mapping[str, OutputSpec]) -> None:
        try:
            found = expressions.find(command)
            required = expressions.required_inputs(command)
        except expressions.ExpressionError as error:
            self.fault("command", str(error), "known: ${{inputs.x}}, ${{outputs.x}}, ${{name}}")
            return
        for expression in found:
            if expression.form == "input" and expression.names[0] not in inputs:
                self.fault(
                    "command", f"there is no input {expression.names[0]!r}", did_you_mean(expression.names[0], inputs)
                )
            elif expression.form == "output" and expression.names[0] not in outputs:
                self.fault(
                    "command", f"there is no output {expression.names[0]!r}", did_you_mean(expression.names[0], outputs)
                )
            elif expression.form not in ("input", "output", "name"):
                self.fault(
                    "command",
                    f"{expression.text} has no meaning in a command line",
                    "use ${{inputs.x}} or ${{outputs.x}}",
                )
        for name in sorted(required):
            spec = inputs.get(name)
            if spec is not None and spec.optional and spec.default is None:
                self.fault(
                    "command",
                    f"the optional input {name!r} may have no value",
                    f"enclose its part: $[[--{name} ${{{{inputs.{name}}}}}]]",
                )

    # ── inputs, outputs ─────────────────────────────────────────────────────────────────────────────────────────

    def inputs(self, body: Any) -> dict[str, InputSpec]:
        found: dict[str, InputSpec] = {}
        for name, entry in self.mapping(body, "inputs").items():
            place = f"inputs.{name}"
            if not names.PORT_NAME.admits(str(name)):
                self.fault(place, "is not a name", names.PORT_NAME.words)
                continue
            spec = self.input(str(name), entry, place)
            if spec is not None:
                found[str(name)] = spec
        return found

    def input(self, name: str, entry: Any, place: str) -> InputSpec | None:
        if not isinstance(entry, Mapping):
            self.fault(place, f"must be a mapping with a type, got {show(entry)}")
            return None
        self.unknown(entry, _INPUT, place)
        known = (*LITERAL_TYPES, *PATH_TYPES)
        kind = str(entry.get("type", "")).lower()
        if kind not in known:
            shown = "is required" if "type" not in entry else f"is not known: {show(entry['type'])}"
            self.fault(f"{place}.type", shown, did_you_mean(kind, known) or f"known: {', '.join(known)}")
            return None
        literal = kind in LITERAL_TYPES
        enum = entry.get("enum") or ()
        if enum and (not isinstance(enum, list | tuple) or not literal):
            self.fault(f"{place}.enum", "must be a list of values" if literal else f"has no meaning for a {kind}")
            enum = ()
        bounds: dict[str, float | None] = {"min": None, "max": None}
        for bound in bounds:
            if entry.get(bound) is not None:
                try:
                    bounds[bound] = float(entry[bound])
                except (TypeError, ValueError):
                    self.fault(f"{place}.{bound}", f"must be a number, got {show(entry[bound])}")
                if kind not in ("integer", "number"):
                    self.fault(f"{place}.{bound}", f"has no meaning for a {kind}")
        mode = entry.get("mode")
        if mode is not None and mode not in MODES:
            self.fault(f"{place}.mode", f"is not known: {show(mode)}", did_you_mean(str(mode), MODES))
        spec = InputSpec(
            name=name,
            type=kind,
            description=str(entry.get("description") or "").strip(),
            optional=self.boolean(entry.get("optional", False), f"{place}.optional"),
            enum=tuple(enum),
            min=bounds["min"],
            max=bounds["max"],
            mode=str(mode) if mode is not None else None,
        )
        if entry.get("default") is None:
            return spec
        if not literal:
            self.fault(f"{place}.default", "a path has no default", "make the input optional")
            return spec
        try:
            default = canonical(spec, entry["default"])
        except ValueError as error:
            self.fault(f"{place}.default", str(error))
            return spec
        return InputSpec(name, kind, spec.description, default, spec.optional, spec.enum, spec.min, spec.max, spec.mode)

    def outputs(self, body: Any) -> dict[str, OutputSpec]:
        found: dict[str, OutputSpec] = {}
        for name, entry in self.mapping(body, "outputs").items():
            place = f"outputs.{name}"
            if not names.PORT_NAME.admits(str(name)):
                self.fault(place, "is not a name", names.PORT_NAME.words)
                continue
            entry = {} if entry is None else entry
            if not isinstance(entry, Mapping):
                self.fault(place, f"must be a mapping with a type, got {show(entry)}")
                continue
            self.unknown(entry, _OUTPUT, place)
            kind = str(entry.get("type", "uri_folder")).lower()
            if kind not in PATH_TYPES:
                self.fault(
                    f"{place}.type",
                    f"is not a path type: {show(entry.get('type'))}",
                    did_you_mean(kind, PATH_TYPES) or f"known: {', '.join(PATH_TYPES)}; write a number into a file",
                )
                continue
            mode = entry.get("mode")
            if mode is not None and mode not in MODES:
                self.fault(f"{place}.mode", f"is not known: {show(mode)}", did_you_mean(str(mode), MODES))
            found[str(name)] = OutputSpec(str(name), kind, str(entry.get("description") or "").strip(), mode)
        return found

    # ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────

    def nodes(self, body: Any) -> dict[str, NodeSpec]:
        if not body:
            self.fault("jobs", "a pipeline needs at least one node")
            return {}
        found: dict[str, NodeSpec] = {}
        for name, entry in self.mapping(body, "jobs").items():
            node = self.node(str(name), entry, f"jobs.{name}")
            if node is not None:
                found[str(name)] = node
        return found

    def node(self, name: str, entry: Any, place: str) -> NodeSpec | None:
        if not names.PORT_NAME.admits(name.replace("-", "_")):
            self.fault(place, "is not a name", names.PORT_NAME.words)
            return None
        if not isinstance(entry, Mapping):
            self.fault(place, f"must be a mapping, got {show(entry)}")
            return None
        self.unknown(entry, _NODE | _INLINE, place)
        component = entry.get("component")
        if component is None and "command" in entry:
            component = self.inline(name, entry, place)
        elif any(key in entry for key in _INLINE):
            self.fault(place, "has a component and a command of its own", "keep one of them")
        if not isinstance(component, str | Mapping) or not component:
            self.fault(f"{place}.component", "is required: a reference, a file or a component's mapping")
            return None
        compute = entry.get("compute")
        if compute is not None and not isinstance(compute, str):
            self.fault(f"{place}.compute", f"must be the name of a compute, got {show(compute)}")
            compute = None
        return NodeSpec(
            name=name,
            component=component,
            inputs=self.mapping(entry.get("inputs"), f"{place}.inputs"),
            outputs=self.mapping(entry.get("outputs"), f"{place}.outputs"),
            compute=compute,
            environment_variables=self.strings(entry.get("environment_variables"), f"{place}.environment_variables"),
            resources=self.mapping(entry.get("resources"), f"{place}.resources"),
            display_name=self.text(entry.get("display_name"), f"{place}.display_name"),
            waived=tuple(key for key in WAIVED if entry.get(key)),
        )

    def inline(self, name: str, entry: Mapping[str, Any], place: str) -> dict[str, Any]:
        """A node that holds its command itself: a component whose inputs have the types of the given values."""
        inputs = {
            key: {"type": type_of(value)} for key, value in self.mapping(entry.get("inputs"), f"{place}.inputs").items()
        }
        outputs: dict[str, Any] = {}
        for key, value in self.mapping(entry.get("outputs"), f"{place}.outputs").items():
            kind = value.get("type", "uri_folder") if isinstance(value, Mapping) else "uri_folder"
            outputs[key] = {"type": kind}
        spec: dict[str, Any] = {"type": "command", "name": name.replace("-", "_"), "inputs": inputs, "outputs": outputs}
        for key in (*_INLINE, "environment_variables", "resources"):
            if entry.get(key) is not None:
                spec[key] = entry[key]
        return spec

    # ── small parts ─────────────────────────────────────────────────────────────────────────────────────────────

    def unknown(self, body: Mapping[str, Any], known: set[str], place: str) -> None:
        for key in body:
            if key not in known:
                target = f"{place}.{key}" if place else str(key)
                hint = did_you_mean(str(key), known) or f"known: {', '.join(sorted(known))}"
                self.fault(target, f"unknown field {key!r}", hint, "UnknownField")

    def name(self, value: Any) -> str:
        if not isinstance(value, str) or not names.ASSET_NAME.admits(value):
            self.fault(
                "name", "is required" if value is None else f"is not a name: {show(value)}", names.ASSET_NAME.words
            )
            return ""
        return value

    def text(self, value: Any, place: str) -> str:
        if value is not None and not isinstance(value, str | int | float):
            self.fault(place, f"must be text, got {show(value)}")
            return ""
        return "" if value is None else str(value).strip()

    def mapping(self, value: Any, place: str) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.fault(place, f"must be a mapping, got {show(value)}")
            return {}
        return {str(key): entry for key, entry in value.items()}

    def strings(self, value: Any, place: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for key, entry in self.mapping(value, place).items():
            if isinstance(entry, bool):
                found[key] = "true" if entry else "false"
            elif isinstance(entry, str | int | float):
                found[key] = str(entry)
            elif entry is None:
                found[key] = ""
            else:
                self.fault(f"{place}.{key}", f"must be text, got {show(entry)}")
        return found

    def boolean(self, value: Any, place: str) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        self.fault(place, f"must be true or false, got {show(value)}")
        return False


def type_of(value: Any) -> str:
    """The type of an input that holds ``value``, for commands that declare none."""
    if isinstance(value, Mapping):
        return str(value.get("type", "uri_folder")).lower()
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        expression = None
        try:
            expression = expressions.whole(value)
        except expressions.ExpressionError:
            return "string"
        if expression is not None and expression.form == "node_output":
            return "uri_folder"
    return "string"
