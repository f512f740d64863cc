"""``workspace.components`` and ``workspace.environments``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.client.assets import Assets
from tunesmith.client.specs import read_spec
from tunesmith.client.views import Component, Environment


class Components(Assets[Component]):
    """Typed steps, and graphs of steps, in Azure ML's component schema.

    Examples:
        >>> pipeline = ws.components.get("chat_completion_pipeline")
        >>> pipeline.type, pipeline.spec["inputs"]["lora_r"]["default"]
        ('pipeline', 8)
        >>> hello = {
        ...     "name": "hello",
        ...     "type": "command",
        ...     "inputs": {"name": {"type": "string", "default": "world"}},
        ...     "command": "echo hello ${{inputs.name}}",
        ... }
        >>> ws.components.register(hello).id
        'azureml:hello:1'
    """

    kind = "components"
    view = Component
    columns = (
        ("registry", lambda component: component.registry),
        ("name", lambda component: component.name),
        ("version", lambda component: component.version),
        ("type", lambda component: component.type),
        ("display name", lambda component: component.display_name),
    )

    def register(self, spec: str | Path | Mapping[str, Any], *, version: str | None = None) -> Component:
        """Register a component from its YAML file, or from the mapping that such a file holds.

        Relative paths in it (``code``) start from the file's folder, or from the working directory.

        Raises:
            ValidationFailed: every fault of the YAML, each with its field.
            AlreadyExists: the version is taken.
        """
        body, base = read_spec(spec)
        if isinstance(code := body.get("code"), str) and not self._files.shared:
            body = {**body, "code": self._files.usable(code, target="code", base=base)}
        request = {"spec": body, "base_path": str(base)} | ({"version": version} if version is not None else {})
        return self._one("POST", "/api/v1/components", request, slow=True)


class Environments(Assets[Environment]):
    """Environments by name and hash; steps run in the installed environment."""

    kind = "environments"
    view = Environment
    columns = (
        ("registry", lambda environment: environment.registry),
        ("name", lambda environment: environment.name),
        ("version", lambda environment: environment.version),
        ("description", lambda environment: environment.description),
    )
