"""From a submitted job to its flat graph, with every fault found in one pass.

Nested pipeline components are expanded; expressions become bindings; literals are checked against the type, enum and
bounds of the input they reach; paths must exist. Nothing is started and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.errors import Fault, TunesmithError, ValidationFailed
from tunesmith.pipelines import expressions
from tunesmith.pipelines.binding import FAULTY, Binder, Faulty, Given, Value
from tunesmith.pipelines.cache import MODULES
from tunesmith.pipelines.environments import differences, python_lines
from tunesmith.pipelines.expressions import Expression, ExpressionError
from tunesmith.pipelines.graph import Graph, GraphOutput, GraphStep, LiteralInput, OutputInput
from tunesmith.pipelines.parsing import parse_component, parse_node
from tunesmith.pipelines.resolver import ResolvedComponent, Resolver, component_sha256
from tunesmith.pipelines.schema import WAIVED, CommandComponent, NodeSpec, PipelineComponent, load_spec
from tunesmith.pipelines.values import did_you_mean, show
from tunesmith.records.jobs import Notice, SubmitJob

SERVERLESS = "serverless"
NO_EFFECT = ("shm_size", "docker_args", "locations", "max_instance_count", "properties")
"""Resources that only a container or a cluster has."""


@dataclass(slots=True)
class _Scope:
    """What the nodes of one pipeline see."""

    inputs: Mapping[str, Value]
    prefix: str
    """Before the names of steps."""
    place: str
    """Before the names of fields."""
    base: Path | None
    compute: str
    used: set[str] = field(default_factory=set)
    made: dict[str, dict[str, OutputInput]] = field(default_factory=dict)
    """Node name to its outputs, for nodes that are done."""
    outputs: dict[str, OutputInput] = field(default_factory=dict)
    """The pipeline's own outputs."""


def build_graph(request: SubmitJob, resolver: Resolver) -> Graph:
    """The graph of ``request``.

    Raises:
        ValidationFailed: every fault is in ``details``, each with the path of its field.
    """
    builder = _Builder(request, resolver)
    graph = builder.build()
    if builder.faults:
        count = "1 fault" if len(builder.faults) == 1 else f"{len(builder.faults)} faults"
        raise ValidationFailed(f"the job has {count}; nothing was started", details=builder.faults)
    return graph


class _Builder(Binder):
    def __init__(self, request: SubmitJob, resolver: Resolver) -> None:
        super().__init__(resolver)
        self.request = request
        self.notices: list[Notice] = []
        self.steps: list[GraphStep] = []
        self.base = Path(request.base_path) if request.base_path else None
        self._opening: list[str] = []
        self._computes: dict[str, str] = {}

    # ── the job ─────────────────────────────────────────────────────────────────────────────────────────────────

    def build(self) -> Graph:
        request = self.request
        compute = request.compute or request.settings.default_compute or "local"
        store = request.settings.default_datastore
        if store:
            message = f"settings.default_datastore {store} has no effect: outputs lie in the workspace's artifact store"
            self.notices.append(Notice(code="FieldWaived", message=message, level="info"))
        inputs: dict[str, Value] = {
            name: Given(value, f"inputs.{name}", self.base) for name, value in request.inputs.items()
        }
        scope = _Scope(inputs, "", "", self.base, compute)
        if request.component is not None or request.command is not None:
            outputs = self.whole(request, scope)
        else:
            outputs = self.pipeline_job(request, scope)
        return Graph(steps=self.steps, outputs=outputs, notices=self.notices)

    def pipeline_job(self, request: SubmitJob, scope: _Scope) -> dict[str, GraphOutput]:
        """A job with nodes of its own."""
        nodes: dict[str, NodeSpec] = {}
        if not request.jobs:
            self.fault("jobs", "a pipeline job needs nodes, or a component", "give jobs, component or command")
        for name, body in request.jobs.items():
            node, faults = parse_node(name, body, target=f"jobs.{name}")
            self.faults += faults
            if node is not None:
                nodes[name] = node
        for key in WAIVED:
            if getattr(request, key):
                message = f"{key} of the job has no effect: {WAIVED[key]}"
                self.notices.append(Notice(code="FieldWaived", message=message, level="info"))
        self.nodes(nodes, scope, declared=request.outputs)
        for name in request.inputs:
            if name not in scope.used:
                self.notices.append(
                    Notice(code="InputUnused", message=f"the job's input {name!r} is used by no node", level="warning")
                )
        outputs: dict[str, GraphOutput] = {}
        for name, declared in request.outputs.items():
            bound = scope.outputs.get(name)
            if bound is None:
                if not self.faults:
                    self.fault(
                        f"outputs.{name}",
                        "no node writes it",
                        f"bind a node's output to ${{{{parent.outputs.{name}}}}}",
                    )
                continue
            kind = declared.get("type") if isinstance(declared, Mapping) else None
            if isinstance(declared, Mapping) and declared.get("path"):
                self.fault(f"outputs.{name}.path", "a job's output lies in its own folder", "leave path out")
            outputs[name] = GraphOutput(type=str(kind or bound.type), step=bound.step, output=bound.output)
        return outputs

    def whole(self, request: SubmitJob, scope: _Scope) -> dict[str, GraphOutput]:
        """A job made of one component, or of one command."""
        if request.jobs:
            self.fault("jobs", "a job has either nodes or a component of its own, not both")
        if request.component is not None and request.command is not None:
            self.fault("command", "a job has either a component or a command, not both")
        body: dict[str, Any] = {"inputs": dict(request.inputs)}
        if request.component is not None:
            body["component"] = request.component
        else:
            body.update(command=request.command, outputs=dict(request.outputs))
            for key in ("code", "environment"):
                if getattr(request, key) is not None:
                    body[key] = getattr(request, key)
        for key in ("resources", *WAIVED):
            if getattr(request, key):
                body[key] = getattr(request, key)
        if request.environment_variables:
            body["environment_variables"] = dict(request.environment_variables)
        node, faults = parse_node("command", body, target="")
        self.faults += [Fault(f.message, (f.target or "").lstrip("."), f.code, f.way_out) for f in faults]
        if node is None:
            return {}
        found = self.component(node.component, scope.base, "component" if request.component is not None else "command")
        if found is None:
            return {}
        name = found.component.name or "command"
        values: dict[str, Value] = dict(scope.inputs)
        made = self.place_component(found, values, node, scope, name, place="")
        outputs = {
            key: GraphOutput(type=bound.type, step=bound.step, output=bound.output) for key, bound in made.items()
        }
        for key, declared in request.outputs.items() if request.component is not None else ():
            self.alias(key, declared, made, outputs)
        return outputs

    def alias(self, key: str, declared: Any, made: Mapping[str, OutputInput], outputs: dict[str, GraphOutput]) -> None:
        """A second name for an output of the component: ``trained_model: ${{outputs.mlflow_model_folder}}``."""
        target = f"outputs.{key}"
        if key in made and (declared is None or isinstance(declared, Mapping)):
            return
        try:
            expression = expressions.whole(declared) if isinstance(declared, str) else None
        except ExpressionError as error:
            self.fault(target, str(error))
            return
        if expression is None or expression.form != "output":
            self.fault(
                target, "names no output of the component", f"outputs: {', '.join(made)}; or ${{{{outputs.NAME}}}}"
            )
            return
        bound = made.get(expression.names[0])
        if bound is None:
            if made:
                self.fault(
                    target,
                    f"the component has no output {expression.names[0]!r}",
                    did_you_mean(expression.names[0], made),
                )
            return
        outputs[key] = GraphOutput(type=bound.type, step=bound.step, output=bound.output)

    # ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────

    def nodes(self, nodes: Mapping[str, NodeSpec], scope: _Scope, *, declared: Mapping[str, Any]) -> None:
        """Expand the nodes of one pipeline, in an order in which each stands after those it needs."""
        for name in self.order(nodes, scope):
            node = nodes[name]
            place = f"{scope.place}jobs.{name}"
            found = self.component(node.component, scope.base, f"{place}.component")
            if found is None:
                continue
            values = {key: self.from_node(value, scope, f"{place}.inputs.{key}") for key, value in node.inputs.items()}
            made = self.place_component(found, values, node, scope, name, place=f"{place}.")
            scope.made[name] = made
            for key, value in node.outputs.items():
                self.bind_output(key, value, node, found, made, scope, declared, f"{place}.outputs.{key}")

    def order(self, nodes: Mapping[str, NodeSpec], scope: _Scope) -> list[str]:
        """The nodes' names, sorted by need and otherwise as written. A cycle is a fault that names it."""
        needs = {name: [n for n in _needs(node) if n in nodes] for name, node in nodes.items()}
        ordered: list[str] = []
        state: dict[str, int] = {}
        path: list[str] = []

        def visit(name: str) -> None:
            if state.get(name) == 2:
                return
            if state.get(name) == 1:
                cycle = [*path[path.index(name) :], name]
                self.fault(f"{scope.place}jobs.{name}", f"nodes wait for each other: {' -> '.join(cycle)}")
                return
            state[name] = 1
            path.append(name)
            for other in needs[name]:
                visit(other)
            path.pop()
            state[name] = 2
            ordered.append(name)

        for name in nodes:
            visit(name)
        return ordered

    def bind_output(
        self,
        key: str,
        value: Any,
        node: NodeSpec,
        found: ResolvedComponent,
        made: Mapping[str, OutputInput],
        scope: _Scope,
        declared: Mapping[str, Any],
        target: str,
    ) -> None:
        if key not in found.component.outputs:
            self.fault(
                target,
                f"the component {found.component.name} has no output {key!r}",
                did_you_mean(key, found.component.outputs)
                or f"outputs: {', '.join(found.component.outputs) or 'none'}",
                "UnknownName",
            )
            return
        text = value.get("path") if isinstance(value, Mapping) else value
        if text is None:
            return  # only a type or a mode: nothing is bound
        try:
            expression = expressions.whole(text) if isinstance(text, str) else None
        except ExpressionError as error:
            self.fault(target, str(error))
            return
        if expression is None or expression.form != "parent_output":
            self.fault(target, f"must be ${{{{parent.outputs.NAME}}}}, got {show(text)}")
            return
        name = expression.names[0]
        if name not in declared:
            self.fault(target, f"the pipeline has no output {name!r}", did_you_mean(name, declared), "UnknownName")
        elif name in scope.outputs:
            self.fault(target, f"another node writes the pipeline's output {name!r} already")
        elif key in made:
            scope.outputs[name] = made[key]

    # ── values ──────────────────────────────────────────────────────────────────────────────────────────────────

    def from_node(self, value: Any, scope: _Scope, target: str) -> Value:
        """What a node's input is given: an expression is followed, anything else stays as it is."""
        inner = value.get("path") if isinstance(value, Mapping) else value
        if not isinstance(inner, str) or not expressions.contains(inner):
            return None if value is None else Given(value, target, scope.base)
        try:
            expression = expressions.whole(inner)
            if expression is not None:
                return self.follow(expression, scope, target)
            return Given(expressions.substitute(inner, lambda e: self.text_of(e, scope, target)), target, scope.base)
        except ExpressionError as error:
            self.fault(target, str(error), "known: ${{parent.inputs.x}}, ${{parent.jobs.node.outputs.x}}")
            return FAULTY

    def follow(self, expression: Expression, scope: _Scope, target: str) -> Value:
        if expression.form == "parent_input":
            name = expression.names[0]
            if name not in scope.inputs:
                hint = did_you_mean(name, scope.inputs) or f"inputs: {', '.join(scope.inputs) or 'none'}"
                self.fault(target, f"the pipeline has no input {name!r}", hint, "UnknownName")
                return FAULTY
            scope.used.add(name)
            return scope.inputs[name]
        if expression.form == "node_output":
            node, output = expression.names
            if node in scope.made:
                if output in scope.made[node]:
                    return scope.made[node][output]
                known = scope.made[node]
                if known:
                    hint = did_you_mean(output, known) or f"outputs: {', '.join(known)}"
                    self.fault(target, f"the node {node!r} has no output {output!r}", hint, "UnknownName")
            elif not self.faults:
                self.fault(target, f"there is no node {node!r}", did_you_mean(node, scope.made), "UnknownName")
            return FAULTY
        if expression.form == "name":
            return Given("${{name}}", target, scope.base)
        raise ExpressionError(f"{expression.text} has no meaning in a node")

    def text_of(self, expression: Expression, scope: _Scope, target: str) -> str:
        """The text that stands for an expression inside a longer text."""
        value = self.follow(expression, scope, target)
        if isinstance(value, LiteralInput):
            return value.value
        if isinstance(value, Given) and isinstance(value.value, str | int | float):
            return str(value.value)
        if value is not None and not isinstance(value, Faulty):
            self.fault(target, f"{expression.text} is no text and cannot be part of one")
        return ""

    # ── one component in its place ──────────────────────────────────────────────────────────────────────────────

    def place_component(
        self,
        found: ResolvedComponent,
        values: Mapping[str, Value],
        node: NodeSpec,
        scope: _Scope,
        name: str,
        *,
        place: str,
    ) -> dict[str, OutputInput]:
        """Bind the inputs of a component and add its step or steps; returns where its outputs are written."""
        component = found.component
        bound = self.bind_inputs(component, values, place)
        self.check_groups(component, bound, place)
        self.check_rule(component, bound, place)
        path = f"{scope.prefix}{name}"
        compute = self.compute(node, scope, f"{place}compute")
        if isinstance(component, PipelineComponent):
            if found.id in self._opening:
                self.fault(f"{place}component", f"contains itself: {' -> '.join([*self._opening, found.id])}")
                return {}
            inner = _Scope(
                inputs={key: bound.get(key) for key in component.inputs},
                prefix=f"{path}/",
                place=place,
                base=found.base,
                compute=compute,
            )
            self._opening.append(found.id)
            self.nodes(component.nodes, inner, declared=component.outputs)
            self._opening.pop()
            for key in component.outputs:
                if key not in inner.outputs and not self.faults:
                    self.fault(f"{place}outputs.{key}", f"no node of the pipeline component {component.name} writes it")
            return {
                key: output.model_copy(update={"type": component.outputs[key].type})
                for key, output in inner.outputs.items()
            }
        assert isinstance(component, CommandComponent)
        self.check_models(component, bound, place)
        given = {**component.resources, **node.resources}
        resources = {key: self.resource(value, scope, f"{place}resources.{key}") for key, value in given.items()}
        told = self.say_waived(path, component, node, resources)
        self.steps.append(
            GraphStep(
                name=path,
                display_name=node.display_name or component.display_name,
                component=component.name,
                component_version=component.version,
                component_id=found.id,
                component_sha256=found.sha256,
                command=component.command,
                code=str(found.code) if found.code else None,
                environment=component.environment,
                environment_variables={**component.environment_variables, **node.environment_variables},
                inputs={key: value for key, value in bound.items() if not isinstance(value, Faulty)},
                outputs={key: spec.type for key, spec in component.outputs.items()},
                deterministic=component.is_deterministic,
                properties=dict(component.properties),
                compute=compute,
                resources=resources,
                told=told,
            )
        )
        return {key: OutputInput(type=spec.type, step=path, output=key) for key, spec in component.outputs.items()}

    # ── components, computes, resources ─────────────────────────────────────────────────────────────────────────

    def component(self, reference: str | Mapping[str, Any], base: Path | None, target: str) -> ResolvedComponent | None:
        try:
            if isinstance(reference, Mapping):
                return self.inline(reference, base, target)
            if reference.startswith("azureml:") and not reference.startswith("azureml:./"):
                return self.resolver.component(reference)
            path = self.locate(reference, base, target)
            if path is None:
                return None
            return self.inline(load_spec(path), path.parent, target, id=str(path))
        except TunesmithError as error:
            self.error(target, error)
            return None

    def inline(
        self, spec: Mapping[str, Any], base: Path | None, target: str, *, id: str | None = None
    ) -> ResolvedComponent | None:
        component = parse_component(spec)
        code: Path | None = None
        if isinstance(component, CommandComponent) and component.code:
            code = self.locate(component.code, base, f"{target}.code")
            if code is None or not code.exists():
                if code is not None:
                    self.fault(f"{target}.code", f"there is no such folder: {code}", code="NotFound")
                return None
        return ResolvedComponent(component, id or component.name, component_sha256(spec), code, base)

    def say_waived(
        self, step: str, component: CommandComponent, node: NodeSpec, resources: Mapping[str, Any]
    ) -> list[str]:
        """Say which fields of a component and its node have no effect here; what the step's own log says of it.

        The log of a step whose code is in installed packages says nothing: it runs where it was made for.
        """
        given = sorted({*node.waived, *(key for key in WAIVED if component.spec.get(key))})
        said = [f"{key} has no effect: {WAIVED[key]}" for key in given]
        if str(resources.get("instance_count", 1)) != "1":
            said.append(f"instance_count {resources['instance_count']} has no effect: {WAIVED['distribution']}")
        said += [f"{key} has no effect: steps are processes of this machine" for key in NO_EFFECT if resources.get(key)]
        own = MODULES in component.properties
        if component.environment is not None and own:
            said.append("its environment is recorded; it runs in the one that is installed here")
        elif component.environment is not None:
            said += self.environment(component.environment)
        for message in said:
            self.notices.append(Notice(code="FieldWaived", message=f"{step}: {message}", level="info", step=step))
        if own:
            return []
        return [*python_lines(), *said] if component.environment is not None else said

    def environment(self, environment: str | Mapping[str, Any]) -> list[str]:
        """What of an environment the step does not get."""
        if isinstance(environment, Mapping):
            return differences(str(environment.get("name") or "of this step"), environment)
        try:
            return differences(environment, self.resolver.environment(environment))
        except TunesmithError:  # Azure's own names are not here; a step needs none of them
            return differences(environment, None)

    def compute(self, node: NodeSpec, scope: _Scope, target: str) -> str:
        """The compute's name, checked once a job."""
        text = node.compute or scope.compute
        if expressions.contains(text):
            try:
                text = expressions.substitute(text, lambda e: self.text_of(e, scope, target))
            except ExpressionError as error:
                self.fault(target, str(error))
                return scope.compute
        text = text.removeprefix("azureml:")
        if text in ("", SERVERLESS, "local"):
            return text or scope.compute
        if text not in self._computes:
            try:
                found = self.resolver.compute(text)
            except TunesmithError as error:
                self.error(target, error)
                self._computes[text] = text
                return text
            self._computes[text] = found.name
            if found.difference:
                self.notices.append(Notice(code="ComputeDiffers", message=found.difference, level="info"))
        return self._computes[text]

    def resource(self, value: Any, scope: _Scope, target: str) -> Any:
        if isinstance(value, str) and expressions.contains(value):
            try:
                return expressions.substitute(value, lambda e: self.text_of(e, scope, target))
            except ExpressionError as error:
                self.fault(target, str(error))
        return value


def _needs(node: NodeSpec) -> list[str]:
    """The nodes whose outputs a node's inputs name."""
    found: list[str] = []
    for value in node.inputs.values():
        text = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(text, str) and expressions.contains(text):
            try:
                found += [e.names[0] for e in expressions.find(text) if e.form == "node_output"]
            except ExpressionError:
                continue  # said where the value is bound
    return found
