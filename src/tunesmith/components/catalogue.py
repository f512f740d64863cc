"""The components of the system registry, from the YAML in ``specs/``."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from tunesmith.pipelines.parsing import parse_component
from tunesmith.pipelines.resolver import component_sha256
from tunesmith.pipelines.schema import load_spec
from tunesmith.records.assets import SYSTEM_REGISTRY, ComponentVersion

SPECS = Path(__file__).parent / "specs"
RELEASED = datetime(2026, 11, 24, tzinfo=UTC)
"""When the interfaces were settled."""


@cache
def entries() -> tuple[ComponentVersion, ...]:
    """Every component, by name.

    Versions are those of Azure ML's components with the same interface, so that a script that names a version finds
    it. What a component does may change under the same version with a new release of Tunesmith; its hash tells, and
    so does the content key of its steps.
    """
    found = []
    for path in sorted(SPECS.glob("*.yaml")):
        spec = load_spec(path)
        component = parse_component(spec, target=path.name)
        found.append(
            ComponentVersion(
                registry=SYSTEM_REGISTRY,
                name=component.name,
                version=component.version,
                id=f"azureml://registries/{SYSTEM_REGISTRY}/components/{component.name}/versions/{component.version}",
                description=component.description,
                tags=dict(component.tags),
                properties=dict(component.properties),
                labels=["latest"],
                created_at=RELEASED,
                type="pipeline" if spec["type"] == "pipeline" else "command",
                display_name=component.display_name,
                spec=spec,
                sha256=component_sha256(spec),
                is_deterministic=component.is_deterministic,
            )
        )
    return tuple(found)
