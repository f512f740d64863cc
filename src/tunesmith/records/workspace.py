"""What the server says of itself, of its files and of the events of its jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from tunesmith.records.base import Record
from tunesmith.records.compute import Machine


class Health(Record):
    """The answer of ``GET /healthz``: which workspace answers here, and whether it is ready."""

    status: Literal["ready", "stopping"]
    version: str
    workspace_id: str


class ServerAddress(Record):
    """``server.json``: the server that runs over a workspace. Written once it listens, removed when it stops."""

    url: str
    pid: int
    process_started: float
    """Start time of the process in Unix seconds: a pid alone may belong to another process by now."""
    workspace_id: str
    version: str
    certificate: str | None = None
    """Path of the server's certificate, where it speaks HTTPS: what a client on this machine trusts."""


class WorkspaceInfo(Record):
    """A workspace and the server that holds it open."""

    id: str
    name: str
    home: str
    """The folder, on the server's machine."""
    version: str
    """Of the server."""
    url: str
    """Where the server is reached; ``mlflow_url`` is MLflow's UI and tracking API behind it."""
    mlflow_url: str
    docs_url: str
    pid: int
    created_at: datetime
    started_at: datetime
    """When this server started."""
    memory_bytes: int
    """Resident memory of the server process."""
    jobs_running: int = 0
    endpoints: int = 0


class DoctorItem(Record):
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "absent", "problem"]
    """``absent``: an optional part that is not installed. ``problem``: something that will fail."""
    detail: str
    way_out: str | None = None
    """The command or the change that puts it right."""


class Doctor(Record):
    """What this machine has, which optional parts are there, and what is missing."""

    machine: Machine
    items: list[DoctorItem] = Field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing is a problem; absent optional parts are none."""
        return all(item.state != "problem" for item in self.items)


class LoginLink(Record):
    """A link for a browser."""

    url: str
    """Opens a session once, within ten minutes."""


class Deleted(Record):
    """The answer to a deletion."""

    freed_bytes: int | None = None
    """What the deleted files took on disk, where that is known."""


class UploadedFile(Record):
    """A file that was sent to the server."""

    upload: str
    """The upload it belongs to; further files with the same one land in the same folder."""
    root: str
    """The folder of the upload, on the server's machine."""
    path: str
    """The file, on the server's machine."""
    sha256: str
    size_bytes: int


class FileEntry(Record):
    """One file of a folder that the server shows."""

    path: str
    """Relative to the folder, with ``/`` between parts."""
    size_bytes: int


class JobEvent(Record):
    """One thing that happened in a job: its own events and its steps', in one order."""

    id: str
    """Opaque; pass it as ``after`` to go on from here."""
    kind: str
    """``job`` and ``step`` for states; ``progress``, ``metric``, ``notice``, ``log`` and ``error`` from a step's work;
    ``end`` closes a stream once the job is over."""
    t: float
    """Unix seconds."""
    step: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    """The event's own fields; see ``tunesmith.reporting``."""
