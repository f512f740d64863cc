"""Where the files of a registration come from: a job's output, a path in the store, a path on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.assets.references import (
    AssetReference,
    DatastoreReference,
    JobOutputReference,
    PathReference,
    parse_reference,
)
from tunesmith.errors import Conflict, NotFound, ValidationFailed
from tunesmith.records.jobs import JobStatus
from tunesmith.storage.artifacts import ALIASES, ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.names import safe_join
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import JobRow

UPLOADED = "LocalUpload/"
"""Where Azure ML's clients upload to."""


@dataclass(frozen=True, slots=True)
class Source:
    """Files on this machine that are to be registered."""

    path: Path
    reference: str
    """How the caller named them."""
    job: str | None = None
    """The job whose output they are."""
    settled: bool = False
    """They never change again, so that a hard link does for a copy."""


class Sources:
    """Finds sources."""

    def __init__(self, database: Database, store: ArtifactStore, paths: WorkspacePaths) -> None:
        self._database = database
        self._store = store
        self._paths = paths

    def find(self, text: str, *, target: str = "path", base: Path | None = None) -> Source:
        """The files behind ``text``.

        Args:
            text: ``azureml://jobs/J/outputs/O``, a path in the workspace's datastore, or a path on this machine.
            target: the field it came from, for errors.
            base: what a relative path starts from; without it a relative path is an error.

        Raises:
            ValidationFailed: it cannot name files to register.
            NotFound: the job, its output or the files are not there.
            Conflict: the job has not ended well.
        """
        reference = parse_reference(text, bare="path", target=target)
        match reference:
            case JobOutputReference():
                return self._job_output(reference, target)
            case DatastoreReference(datastore=datastore):
                if datastore not in ALIASES:
                    raise NotFound(
                        f"there is no datastore {datastore!r}",
                        target=target,
                        way_out=f"the workspace has one, called {' or '.join(sorted(ALIASES))}",
                    )
                # Uploads lie under the hash of their content, and are replaced, never changed.
                settled = reference.path.startswith(UPLOADED)
                return Source(self._store.local_path(str(reference)), text, settled=settled)
            case PathReference(path=path):
                return Source(self._local(path, target, base), text)
            case AssetReference():
                raise ValidationFailed(
                    f"{text!r} is registered already",
                    target=target,
                    way_out="give a job's output (azureml://jobs/JOB/outputs/OUTPUT) or a path",
                )
        raise ValidationFailed(
            f"{text[:200]!r} is on the network, which only an import uses",
            target=target,
            way_out="download it and give its path; for a model: tunesmith models import NAME --from SOURCE",
        )

    def _local(self, path: Path, target: str, base: Path | None) -> Path:
        if not path.is_absolute():
            if base is None:
                raise ValidationFailed(
                    f"{str(path)!r} is relative, and this server does not know to what",
                    target=target,
                    way_out="give an absolute path",
                )
            path = base / path
        if not path.exists():
            raise NotFound(
                "no such file or folder on the server's machine", target=str(path), way_out="check the path's spelling"
            )
        return path

    def _job_output(self, reference: JobOutputReference, target: str) -> Source:
        with self._database.reading() as session:
            row = session.get(JobRow, reference.job)
        if row is None:
            raise NotFound(f"there is no job {reference.job!r}", target=target, way_out="tunesmith jobs list")
        if reference.output not in row.outputs:
            there = ", ".join(sorted(row.outputs)) or "none"
            raise NotFound(
                f"the job {row.name} has no output {reference.output!r}", target=target, way_out=f"its outputs: {there}"
            )
        if row.status != JobStatus.COMPLETED:
            raise Conflict(
                f"the job {row.name} is {row.status}, so its output is not whole",
                target=target,
                way_out=f"see why: tunesmith jobs show {row.name}"
                if JobStatus(row.status).terminal
                else f"wait for it: tunesmith jobs stream {row.name}",
            )
        stored = row.outputs[reference.output].get("path")
        root = self._paths.job_output(row.name, reference.output)
        if stored and (Path(stored).exists() or not root.exists()):  # else the workspace's folder was moved
            root = Path(stored)
        if not root.exists():
            raise NotFound(
                f"the output {reference.output!r} of the job {row.name} is gone from the disk",
                target=str(root),
                way_out="run the job again",
            )
        path = safe_join(root, reference.path, target=target) if reference.path else root
        if not path.exists():
            raise NotFound(f"the output has no {reference.path!r}", target=str(path))
        return Source(path, str(reference), job=row.name, settled=True)
