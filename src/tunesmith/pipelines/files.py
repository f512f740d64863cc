"""The files of jobs: folders, graphs, texts, and the snapshot of a job's code."""

from __future__ import annotations

import shutil
from pathlib import Path

from tunesmith.errors import JobFailed
from tunesmith.pipelines.fingerprints import code_files, hash_code
from tunesmith.pipelines.graph import Graph
from tunesmith.pipelines.layout import JobFolder
from tunesmith.storage.paths import WorkspacePaths


class JobFiles:
    """The jobs' folders; graphs are read once."""

    def __init__(self, paths: WorkspacePaths) -> None:
        self.paths = paths
        self._graphs: dict[str, Graph] = {}

    def folder(self, name: str) -> JobFolder:
        """The folder of a job."""
        return JobFolder(self.paths.job(name))

    def graph(self, name: str) -> Graph:
        """The graph of a job.

        Raises:
            JobFailed: its files are gone or damaged.
        """
        if name not in self._graphs:
            try:
                self._graphs[name] = Graph.model_validate_json(self.folder(name).graph.read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise JobFailed(
                    f"the files of the job {name} are gone or damaged: {type(error).__name__}",
                    target=str(self.folder(name).graph),
                    way_out=f"tunesmith jobs delete {name}",
                ) from None
        return self._graphs[name]

    def forget(self, name: str) -> None:
        """The job is deleted."""
        self._graphs.pop(name, None)


def read_text(path: Path) -> str:
    """The text of a file, empty when it is not there."""
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def last_line(path: Path) -> str:
    """The last line with something on it."""
    lines = [line for line in read_text(path)[-8192:].splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else ""


def snapshot_code(graph: Graph, aside: JobFolder, final: JobFolder) -> Graph:
    """Copy each code folder into the job, so that later edits do not reach a job that waits or restarts."""
    copied: dict[str, str] = {}
    steps = []
    for step in graph.steps:
        if step.code is not None:
            if step.code not in copied:
                source = Path(step.code)
                place = f"{hash_code(source)[:16]}"
                target = aside.code / place
                if not target.exists():
                    for relative in [source.name] if source.is_file() else code_files(source):
                        copy = target / relative
                        copy.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy2(source if source.is_file() else source / relative, copy)
                copied[step.code] = str(final.code / place)
            step = step.model_copy(update={"code": copied[step.code]})
        steps.append(step)
    return graph.model_copy(update={"steps": steps})
