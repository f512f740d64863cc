"""Environments: recorded with their hash. Steps run in the environment that is installed; none is ever built."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tunesmith.assets.service import AssetService
from tunesmith.records.assets import EnvironmentVersion
from tunesmith.storage.tables import AssetRow


class EnvironmentService(AssetService[EnvironmentVersion]):
    """Environments."""

    kind = "environments"
    word = "environment"

    def register(
        self,
        name: str,
        spec: Mapping[str, Any],
        *,
        version: str | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> EnvironmentVersion:
        """Record an environment as Azure ML's YAML describes it (``image``, ``conda_file``, …).

        Raises:
            ValidationFailed: the name or the version is faulty.
            AlreadyExists: the version is taken.
        """
        with self._registering(name, version) as chosen:
            body = json.loads(json.dumps(dict(spec), sort_keys=True, default=str))
            sha256 = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            return self._keep(
                name,
                chosen,
                description=description,
                tags=dict(tags or {}),
                sha256=sha256,
                body={"spec": body},
            )

    def _record(self, row: AssetRow, labels: builtins.list[str]) -> EnvironmentVersion:
        return EnvironmentVersion(**self._common(row, labels), spec=row.body["spec"], sha256=row.sha256 or "")
