"""The short way to a fine-tuning job: from a few names to a job of the system pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.client.files import is_reference
from tunesmith.errors import UserError
from tunesmith.records.assets import AssetVersion, ModelVersion

PIPELINE = "azureml://registries/azureml/components/chat_completion_pipeline/labels/latest"


def finetune_job(
    model: AssetVersion | str,
    *,
    train: str | Path | AssetVersion,
    validation: str | Path | AssetVersion | None,
    test: str | Path | AssetVersion | None,
    parameters: Mapping[str, Any],
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    """The job over ``PIPELINE``, as a mapping in the job schema.

    ``fields`` are those of the job itself; ``None`` leaves one out. ``parameters`` are inputs of the pipeline by
    Azure's names; whether they are known and within their bounds is for the server to say, which has the component.
    """
    inputs: dict[str, Any] = {}
    kind: str = model.type if isinstance(model, ModelVersion) else "mlflow_model"
    inputs["mlflow_model_path" if kind == "mlflow_model" else "pytorch_model_path"] = {
        "type": kind,
        "path": model.id if isinstance(model, AssetVersion) else model,
    }
    for split, given in (("train", train), ("validation", validation), ("test", test)):
        if given is None:
            continue
        kind, path = _data(given)
        inputs[f"{split}_mltable_path" if kind == "mltable" else f"{split}_file_path"] = {"type": kind, "path": path}
    for key, value in parameters.items():
        if key in inputs:
            raise UserError(f"{key} is given twice: by its argument and by its parameter", target=key)
        inputs[key] = str(value) if isinstance(value, Path) else value
    job = {"type": "pipeline", "component": PIPELINE, "inputs": inputs, **fields}
    return {key: value for key, value in job.items() if value is not None}


def _data(given: str | Path | AssetVersion) -> tuple[str, str]:
    """The input type and the path of conversations."""
    if isinstance(given, AssetVersion):
        return str(getattr(given, "type", "uri_file")), given.id
    text = str(given)
    if is_reference(text):
        return "uri_file", text
    path = Path(text).expanduser().absolute()
    return ("mltable" if (path / "MLTable").is_file() else "uri_folder" if path.is_dir() else "uri_file"), str(path)
