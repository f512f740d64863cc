"""The database on a real PostgreSQL server; SQLite's tests are the other files' matter."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.support.postgresql import postgresql_server, programs
from tests.support.server import end_server, running_server, start_server
from tests.support.workspace import until
from tunesmith.errors import Unreachable, ValidationFailed
from tunesmith.storage.database import Database
from tunesmith.storage.tables import KeyValueRow

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(programs() is None, reason="this machine has no PostgreSQL (initdb)"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgresql_server(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture
def url(address: str, request: pytest.FixtureRequest) -> str:
    """A database of this test's own."""
    name = request.node.name[:60].lower()
    engine = create_engine(f"{address}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return f"{address}/{name}"


def test_what_is_written_is_there_for_the_next_one(url: str) -> None:
    database = Database(url)
    with database.session() as session:
        session.add(KeyValueRow(key="a", value={"x": [1, None, "ü"]}))
    with pytest.raises(RuntimeError), database.session() as session:
        session.add(KeyValueRow(key="b", value={}))
        session.flush()
        raise RuntimeError
    database.close()
    again = Database(url, migrate=False)
    with again.reading() as session:
        assert session.get(KeyValueRow, "b") is None
        row = session.get(KeyValueRow, "a")
        assert row is not None
        assert row.value == {"x": [1, None, "ü"]}
    again.close()


def test_connections_that_were_cut_are_made_anew(url: str) -> None:
    database = Database(url)
    with database.reading() as session:
        session.get(KeyValueRow, "a")
    other = create_engine(url.rpartition("/")[0] + "/postgres", isolation_level="AUTOCOMMIT")
    with other.connect() as connection:
        cut = text("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = :name")
        assert connection.execute(cut, {"name": url.rpartition("/")[2]}).scalar() == 1
    other.dispose()
    with database.session() as session:
        session.add(KeyValueRow(key="a", value={}))
    database.close()


def test_a_null_character_is_refused(url: str) -> None:
    database = Database(url)
    with pytest.raises(ValidationFailed, match="NUL character"), database.reading() as session:
        session.get(KeyValueRow, "a\0b")
    database.close()


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(Unreachable, match="cannot be opened"):
        Database("postgresql+psycopg://tunesmith@127.0.0.1:1/none")


def test_writers_at_the_same_time_all_get_through(url: str) -> None:
    database = Database(url)
    faults: list[Exception] = []

    def write(number: int) -> None:
        try:
            for count in range(20):
                with database.session() as session:
                    session.add(KeyValueRow(key=f"{number}/{count}", value={}))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with database.reading() as session:
        assert session.query(KeyValueRow).count() == 160
    database.close()


def test_a_workspace_on_it_survives_its_servers_death(url: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    spec = {"type": "command", "name": "say", "version": "1", "command": "echo said"}
    environment = {"TUNESMITH_DATABASE_URL": url}
    home = tmp_path / "home"
    server = start_server(home, environment=environment)
    try:
        with server.http as http:
            data = {"name": "rows", "type": "uri_file", "path": str(rows)}
            assert http.post("/api/v1/data", json=data).status_code == 201
            assert not (home / "tunesmith.db").exists()
        server.kill()
    finally:
        end_server(server)
    with running_server(home, environment=environment) as again, again.http as http:
        (kept,) = http.get("/api/v1/registries/workspace/data").json()
        assert (kept["name"], kept["version"]) == ("rows", "1")
        component = http.post("/api/v1/components", json={"spec": spec})
        assert component.status_code == 201, component.text
        job = http.post("/api/v1/jobs", json={"component": "azureml:say:1"})
        assert job.status_code == 201, job.text
        name = job.json()["name"]
        until(lambda: http.get(f"/api/v1/jobs/{name}").json()["status"] == "Completed", "the job to end")
