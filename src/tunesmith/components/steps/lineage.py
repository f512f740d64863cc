"""What went into a tuned model, each with the hash that proves it: ``lineage.json`` in the step's folder.

The runner copies it to the job's folder, also when the step was reused, so registration finds it there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.components.steps.runtime import Step
from tunesmith.pipelines.fingerprints import text_sha256
from tunesmith.records.assets import LineageItem
from tunesmith.storage.atomic import write_json

if TYPE_CHECKING:
    from tunesmith.chat.prepared import Prepared
    from tunesmith.models import ModelPackage

LINEAGE_FILE = "lineage.json"
_MODEL_INPUTS = ("mlflow_model_path", "pytorch_model_path", "huggingface_id")


def write_lineage(
    step: Step, *, package: ModelPackage, splits: Mapping[str, Prepared], parameters: Mapping[str, Any]
) -> None:
    """Write the lineage of the model that ``step`` trained; nothing when it does not run in a job."""
    if step.folder is None:
        return
    told = step.inputs()
    asked = _asked(step)
    manifest = package.manifest
    items = [
        LineageItem(
            role="base_model",
            reference=next((asked[name] for name in _MODEL_INPUTS if name in asked), manifest.name),
            sha256=package.sha256,
            detail={"name": manifest.name, "source": manifest.origin.source, "revision": manifest.origin.revision},
        )
    ]
    for split, rows in splits.items():
        sources = [
            {"path": source.path, "bytes": source.bytes, "sha256": source.sha256} for source in rows.report.sources
        ]
        files = ", ".join(source["path"] for source in sources)  # type: ignore[misc]
        items.append(
            LineageItem(
                role=split,
                reference=next(
                    (asked[name] for name in (f"{split}_file_path", f"{split}_mltable_path") if name in asked), files
                ),
                sha256=sources[0]["sha256"] if len(sources) == 1 else rows.report.key,  # type: ignore[arg-type]
                detail={
                    "rows": rows.report.rows_kept,
                    "rows_read": rows.report.rows_read,
                    "tokens": rows.report.tokens,
                    "trained_tokens": rows.report.trained_tokens,
                    "files": sources,
                },
            )
        )
    component, parts = told.get("component", {}), told.get("parts", {})
    if component:
        items.append(
            LineageItem(
                role="component",
                reference=component["id"],
                sha256=component["sha256"],
                detail={"name": component["name"], "version": component["version"]},
            )
        )
    for role in ("code", "environment"):
        if role in parts:
            items.append(LineageItem(role=role, reference=role, sha256=parts[role]))
    text = json.dumps(dict(parameters), sort_keys=True)
    items.append(
        LineageItem(role="parameters", reference="parameters", sha256=text_sha256(text), detail=dict(parameters))
    )
    items.append(LineageItem(role="template", reference="chat_contract.json", sha256=manifest.chat_contract))
    body = {"job": told.get("job"), "step": told.get("step"), "items": [item.model_dump(mode="json") for item in items]}
    write_json(step.folder / LINEAGE_FILE, body)


def _asked(step: Step) -> dict[str, str]:
    """What the job named for its model and data inputs, by input: from the graph, where the job's own words are."""
    if step.job_folder is None:
        return {}
    graph = json.loads((step.job_folder / "graph.json").read_text("utf-8"))
    found: dict[str, str] = {}
    for entry in graph["steps"]:
        for name, binding in entry["inputs"].items():
            if binding["kind"] == "path":
                found.setdefault(name, binding["reference"])
            elif name == "huggingface_id":
                found.setdefault(name, f"hf://{binding['value']}")
    return found
