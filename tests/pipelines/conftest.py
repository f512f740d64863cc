"""A job service over a temporary workspace, with a resolver that knows what a test gives it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tunesmith.errors import Fault, NotFound
from tunesmith.pipelines.parsing import parse_component
from tunesmith.pipelines.resolver import ResolvedComponent, ResolvedCompute, ResolvedPath, component_sha256
from tunesmith.pipelines.service import JobService
from tunesmith.records.jobs import Job
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths


@dataclass
class FixedResolver:
    """Components by ``azureml:name:version``, paths by reference, computes by name."""

    components: dict[str, tuple[Mapping[str, Any], Path | None]] = field(default_factory=dict)
    paths: dict[str, ResolvedPath] = field(default_factory=dict)
    computes: dict[str, ResolvedCompute] = field(default_factory=dict)
    environments: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    checks: dict[str, Callable[[Mapping[str, str]], list[Fault]]] = field(default_factory=dict)

    def component(self, reference: str) -> ResolvedComponent:
        if reference not in self.components:
            raise NotFound(f"there is no component {reference}")
        spec, code = self.components[reference]
        return ResolvedComponent(parse_component(spec), reference, component_sha256(spec), code)

    def path(self, reference: str, type: str) -> ResolvedPath:
        if reference not in self.paths:
            raise NotFound(f"there is no asset {reference}")
        return self.paths[reference]

    def compute(self, name: str) -> ResolvedCompute:
        if name not in self.computes:
            raise NotFound(f"there is no compute {name!r}", target="compute", way_out="tunesmith compute list")
        return self.computes[name]

    def environment(self, reference: str) -> Mapping[str, Any] | None:
        return self.environments[reference]

    def check(self, rule: str, values: Mapping[str, str]) -> list[Fault]:
        return self.checks[rule](values)


@pytest.fixture
def resolver() -> FixedResolver:
    return FixedResolver()


@pytest.fixture
def paths(tmp_path: Path) -> WorkspacePaths:
    found = WorkspacePaths(tmp_path / "home")
    found.make()
    return found


@pytest.fixture
def database(paths: WorkspacePaths) -> Iterator[Database]:
    found = Database(paths.database_file)
    yield found
    found.close()


@pytest.fixture
def make_service(
    database: Database, paths: WorkspacePaths, resolver: FixedResolver
) -> Iterator[Callable[..., JobService]]:
    """Makes services over the same workspace; whatever job still runs at the end is canceled and waited for."""
    made: list[JobService] = []

    def make(**options: Any) -> JobService:
        options.setdefault("grace_s", 5.0)
        service = JobService(database, paths, ArtifactStore(paths.artifacts), resolver, **options)
        made.append(service)
        return service

    yield make
    for service in made:
        service.stop()
    if made:
        last = made[-1]
        for job in last.list():
            if not job.status.terminal:
                last.cancel(job.name)
                wait_for(last, job.name)


@pytest.fixture
def service(make_service: Callable[..., JobService]) -> JobService:
    return make_service()


def wait_for(service: JobService, name: str, *, until: Callable[[Job], bool] = lambda job: job.status.terminal) -> Job:
    """Reconcile until the job is as wanted; ten minutes at most."""
    deadline = time.monotonic() + 600
    while True:
        service.reconcile()
        job = service.get(name)
        if until(job):
            return job
        assert time.monotonic() < deadline, f"{name} is {job.status}: {service.logs(name)}"
        assert not job.status.terminal, f"{name} ended as {job.status}: {job.error}"
        time.sleep(0.1)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; four minutes at most."""
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command(name: str, line: str, **parts: Any) -> dict[str, Any]:
    """The mapping of a command component."""
    return {"type": "command", "name": name, "version": "1", "command": line, **parts}
