"""Where a model came from, as the job that made it wrote it down.

A job's folder has ``lineage.json``: ``{"job", "step", "items": [LineageItem, …]}``. A model from a folder has what can
be said of a folder: its path and its hash.
"""

from __future__ import annotations

import json

from pydantic import ValidationError

from tunesmith.assets.sources import Source
from tunesmith.errors import Failure
from tunesmith.records.assets import Lineage, LineageItem
from tunesmith.storage.paths import WorkspacePaths

LINEAGE_FILE = "lineage.json"


def lineage_of(source: Source, paths: WorkspacePaths, *, sha256: str, template: str | None) -> Lineage:
    """The lineage of a model that is registered from ``source``.

    Args:
        source: its files.
        paths: where the job's folder is.
        sha256: hash of the model's files.
        template: hash of its chat contract, which is an item of its own unless the job named one.

    Raises:
        Failure: the job's lineage file is damaged.
    """
    found = _of_job(source.job, paths) if source.job is not None else None
    if found is None:
        origin = LineageItem(role="source", reference=source.reference, sha256=sha256)
        found = Lineage(job=source.job, created_by="job" if source.job else "folder", items=[origin])
    if template is not None and not any(item.role == "template" for item in found.items):
        item = LineageItem(role="template", reference="chat_contract.json", sha256=template)
        found = found.model_copy(update={"items": [*found.items, item]})
    return found


def _of_job(job: str, paths: WorkspacePaths) -> Lineage | None:
    path = paths.job(job) / LINEAGE_FILE
    try:
        body = json.loads(path.read_text("utf-8"))
        lineage = Lineage.model_validate(body)
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError) as error:
        raise Failure(
            f"the job's lineage cannot be read: {error}", target=str(path), way_out="run the job again"
        ) from None
    return lineage.model_copy(update={"job": job})
