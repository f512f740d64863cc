"""What following a job costs while nothing happens in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import event

from tests.pipelines.conftest import until, wait_for
from tunesmith.pipelines.layout import JobFolder
from tunesmith.pipelines.service import JobService
from tunesmith.records.jobs import JobStatus, SubmitJob
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths


def test_a_job_that_says_nothing_costs_a_query_and_what_it_says_later_is_read(
    service: JobService, database: Database, paths: WorkspacePaths, tmp_path: Path
) -> None:
    line = f'while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo \'{{"t": 1, "kind": "log", "message": "x"}}\''
    name = service.submit(SubmitJob(type="command", command=f"echo begun; {line} >> $TUNESMITH_EVENTS")).name
    folder = JobFolder(paths.job(name))
    logs = folder.root / "steps"
    until(lambda: any("begun" in log.read_text() for log in logs.glob("*/log.txt")))
    for _ in range(2):  # reads what there is, then finds nothing new
        service.reconcile()
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    service.reconcile()
    event.remove(database.engine, "before_cursor_execute", note)
    assert [statement.split()[0] for statement in asked] == ["BEGIN", "SELECT"]
    (tmp_path / "go").touch()
    assert wait_for(service, name).status == JobStatus.COMPLETED
