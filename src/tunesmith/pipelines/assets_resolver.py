"""Answers a graph's references from the workspace's services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.assets.components import ComponentService
from tunesmith.assets.data import DataService
from tunesmith.assets.environments import EnvironmentService
from tunesmith.assets.models import ModelService
from tunesmith.assets.references import AssetReference, parse_reference
from tunesmith.assets.sources import Sources
from tunesmith.compute.service import ComputeService
from tunesmith.errors import Fault, ValidationFailed
from tunesmith.pipelines.graph import ModelSource
from tunesmith.pipelines.parsing import parse_component
from tunesmith.pipelines.resolver import ResolvedComponent, ResolvedCompute, ResolvedPath, component_sha256
from tunesmith.pipelines.schema import PipelineComponent
from tunesmith.pipelines.values import MODEL_TYPES
from tunesmith.records.assets import ModelVersion

Check = Callable[[Mapping[str, str]], list[Fault]]
"""A rule for the values of a component's literal inputs; each fault's target is an input's name."""


def check_spec(spec: Mapping[str, Any]) -> str:
    """Check a component's mapping for registration, and return the hash of what it does.

    Raises:
        ValidationFailed: with every fault. A registered pipeline component must not name files: whoever runs it does
            not have them.
    """
    component = parse_component(spec)
    faults: list[Fault] = []
    if isinstance(component, PipelineComponent):
        for name, node in component.nodes.items():
            if isinstance(node.component, str):
                if not node.component.startswith("azureml:"):
                    way_out = "register that component first, and name it: azureml:NAME:VERSION"
                    faults.append(
                        Fault("a registered pipeline names a file", f"jobs.{name}.component", way_out=way_out)
                    )
            elif node.component.get("code"):
                way_out = "register the node's component with its code first, and name it: azureml:NAME:VERSION"
                faults.append(Fault("a registered pipeline names a code folder", f"jobs.{name}.code", way_out=way_out))
    if faults:
        raise ValidationFailed(f"the component {component.name} cannot be registered", details=faults)
    return component_sha256(spec)


class AssetResolver:
    """Components, models and data from the registries; jobs' outputs and datastores; computes."""

    def __init__(
        self,
        *,
        components: ComponentService,
        models: ModelService,
        data: DataService,
        sources: Sources,
        computes: ComputeService,
        environments: EnvironmentService,
        checks: Mapping[str, Check] | None = None,
    ) -> None:
        self._components = components
        self._models = models
        self._data = data
        self._sources = sources
        self._computes = computes
        self._environments = environments
        self._checks = checks or {}

    def component(self, reference: str) -> ResolvedComponent:
        """See ``Resolver``."""
        version = self._components.resolve(reference)
        component = parse_component(version.spec)
        return ResolvedComponent(component, version.id, version.sha256, self._components.code(version))

    def path(self, reference: str, type: str) -> ResolvedPath:
        """See ``Resolver``."""
        parsed = parse_reference(reference)
        if not isinstance(parsed, AssetReference):
            return ResolvedPath(self._sources.find(reference).path, reference)
        wanted = parsed.kind or ("models" if type in MODEL_TYPES else "data")
        if wanted == "models":
            return self._model(self._models.resolve(replace(parsed, kind="models")))
        if wanted == "data":
            found = self._data.resolve(replace(parsed, kind="data"))
            return ResolvedPath(self._data.local_path(found), found.id, found.type)
        raise ValidationFailed(f"{reference!r} names one of {wanted}, and a {type} is wanted here")

    def _model(self, model: ModelVersion) -> ResolvedPath:
        if model.state == "imported":
            model = self._models.fetch(model.id)
        path = Path(model.path) if model.path else self._models.package_folder(model)
        source = ModelSource(
            registry=model.registry,
            name=model.name,
            version=model.version,
            source=model.source,
            sha256=model.sha256 if model.path else None,
        )
        return ResolvedPath(path, model.id, model.type, source)

    def compute(self, name: str) -> ResolvedCompute:
        """See ``Resolver``."""
        target = self._computes.resolve(name)
        return ResolvedCompute(target.name, target.size.name, "; ".join(target.notices) or None)

    def environment(self, reference: str) -> Mapping[str, Any] | None:
        """See ``Resolver``."""
        return self._environments.resolve(reference).spec

    def check(self, rule: str, values: Mapping[str, str]) -> list[Fault]:
        """See ``Resolver``. A rule that is not known here passes: components of others may name their own."""
        known = self._checks.get(rule)
        return known(values) if known is not None else []
