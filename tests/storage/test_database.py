from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable

from tunesmith.errors import Conflict, Failure, Unreachable, UserError
from tunesmith.storage import migrations
from tunesmith.storage.database import HEAD, Database
from tunesmith.storage.tables import EndpointRow, JobRow, JobStepRow, KeyValueRow, Table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tunesmith.db"


def a_job(name: str, **columns: object) -> JobRow:
    return JobRow(
        **{
            "name": name,
            "type": "pipeline",
            "display_name": name,
            "experiment_name": "Default",
            "status": "Running",
            **columns,
        }
    )


def test_what_is_written_is_there_for_the_next_one(path: Path) -> None:
    database = Database(path)
    with database.session() as session:
        session.add(KeyValueRow(key="a", value={"x": [1, None, "ü"]}))
    database.close()
    again = Database(path)
    with again.reading() as session:
        row = session.get(KeyValueRow, "a")
        assert row is not None
        assert row.value == {"x": [1, None, "ü"]}
    again.close()


def test_a_session_that_fails_changes_nothing(path: Path) -> None:
    database = Database(path)
    with pytest.raises(RuntimeError), database.session() as session:
        session.add(KeyValueRow(key="a", value={}))
        session.flush()
        raise RuntimeError
    with database.reading() as session:
        assert session.get(KeyValueRow, "a") is None
    database.close()


def test_sqlite_is_durable_and_checks_its_keys(path: Path) -> None:
    database = Database(path)
    with database.session() as session:
        settings = {
            name: session.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
    with pytest.raises(IntegrityError), database.session() as session:
        session.add(JobStepRow(job="none", name="s", position=0, status="NotStarted"))
    database.close()


def test_deleting_a_job_deletes_its_steps(path: Path) -> None:
    database = Database(path)
    with database.session() as session:
        session.add(a_job("j"))
        session.flush()
        session.add(JobStepRow(job="j", name="s", position=0, status="NotStarted"))
    with database.session() as session:
        session.delete(session.get_one(JobRow, "j"))
    with database.reading() as session:
        assert session.get(JobStepRow, ("j", "s")) is None
    database.close()


def test_times_keep_their_moment_and_come_back_in_utc(path: Path) -> None:
    database = Database(path)
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with database.session() as session:
        session.add(a_job("j", created_at=moment))
    with database.reading() as session:
        found = session.get_one(JobRow, "j").created_at
    assert found == moment
    assert found.tzinfo is UTC
    with pytest.raises(Exception, match="without its zone"), database.session() as session:
        session.add(a_job("k", created_at=datetime(2026, 1, 2)))
    database.close()


def test_nothing_is_null_and_not_the_word(path: Path) -> None:
    database = Database(path)
    with database.session() as session:
        session.add(a_job("j", error=None))
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM jobs WHERE error IS NULL")).scalar() == 1
    database.close()


def test_writers_at_once_wait_for_each_other(path: Path) -> None:
    database = Database(path)
    with database.session() as session:
        session.add(KeyValueRow(key="count", value={"n": 0}))

    def add() -> None:
        for _ in range(20):
            with database.session() as session:
                row = session.get_one(KeyValueRow, "count")
                row.value = {"n": row.value["n"] + 1}

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        assert session.get_one(KeyValueRow, "count").value == {"n": 80}
    database.close()


def test_a_reader_does_not_wait_for_a_writer(path: Path) -> None:
    database = Database(path)
    with database.session() as writer:
        writer.add(KeyValueRow(key="a", value={}))
        writer.flush()
        with database.reading() as reader:
            assert reader.get(KeyValueRow, "a") is None
    with database.reading() as reader:
        assert reader.get(KeyValueRow, "a") is not None
    database.close()


def test_a_change_that_was_acknowledged_survives_a_kill(path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from tunesmith.storage.database import Database
from tunesmith.storage.tables import KeyValueRow
database = Database(Path({str(path)!r}))
with database.session() as session:
    session.add(KeyValueRow(key="kept", value={{}}))
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    database = Database(path)
    with database.reading() as session:
        assert session.get(KeyValueRow, "kept") is not None
    database.close()


# Migrations


def test_the_newest_revision_is_named_by_head() -> None:
    assert migrations.known_revisions()[-1] == HEAD


def test_the_migrations_make_exactly_the_tables(path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = create_engine(f"sqlite:///{path}")
    migrations.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


def test_a_new_database_is_as_the_migrations_make_it(tmp_path: Path) -> None:
    """Column for column, index for index."""
    Database(tmp_path / "new.db").close()
    engines = [create_engine(f"sqlite:///{tmp_path / name}") for name in ("new.db", "migrated.db")]
    migrations.upgrade(engines[1])
    found = []
    for engine in engines:
        inspector = inspect(engine)
        tables = {}
        for name in inspector.get_table_names():
            columns = sorted(inspector.get_columns(name), key=lambda column: column["name"])
            tables[name] = (
                [{**column, "type": str(column["type"])} for column in columns],
                inspector.get_pk_constraint(name),
                sorted(inspector.get_indexes(name), key=str),
                sorted(inspector.get_foreign_keys(name), key=str),
                sorted(inspector.get_unique_constraints(name), key=str),
                sorted(inspector.get_check_constraints(name), key=str),
            )
        found.append(tables)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [HEAD]
        engine.dispose()
    assert found[0] == found[1]


@pytest.mark.parametrize("revision", migrations.known_revisions())
def test_every_earlier_revision_is_brought_up_to_date(path: Path, revision: str) -> None:
    engine = create_engine(f"sqlite:///{path}")
    migrations.upgrade(engine, revision)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO key_values (key, value) VALUES ('old', '{\"kept\": true}')"))
    engine.dispose()
    database = Database(path)
    with database.reading() as session:
        assert session.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD
        assert session.get_one(KeyValueRow, "old").value == {"kept": True}
    database.close()


def test_a_database_of_a_newer_tunesmith_is_refused_and_left_as_it_is(path: Path) -> None:
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(Conflict, match=r"revision 9999.*newer one made it"):
        Database(path)
    assert path.read_bytes() == before


def test_without_migrating_an_old_database_is_refused(path: Path) -> None:
    with pytest.raises(Conflict, match=f"has revision none and needs {HEAD}"):
        Database(path, migrate=False)


@pytest.mark.parametrize("new", [True, False])
def test_new_or_up_to_date_needs_no_alembic(path: Path, new: bool) -> None:
    if not new:
        Database(path).close()
    code = (
        "import sys; from pathlib import Path; from tunesmith.storage.database import Database;"
        f"Database(Path({str(path)!r})).close(); print('alembic' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_the_tables_are_portable_to_postgresql() -> None:
    dialect: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    ddl = {table.name: str(CreateTable(table).compile(dialect=dialect)) for table in Table.metadata.sorted_tables}
    assert "TIMESTAMP WITH TIME ZONE" in ddl["jobs"]
    assert "id SERIAL NOT NULL" in ddl["asset_versions"]
    assert inspect(EndpointRow).primary_key[0].name == "name"


def test_the_migrations_are_portable_to_postgresql(capsys: pytest.CaptureFixture[str]) -> None:
    from alembic import command

    config = migrations._config()
    config.attributes["dialect"] = "postgresql"
    command.upgrade(config, "head", sql=True)
    sql = capsys.readouterr().out
    for table in Table.metadata.sorted_tables:
        assert f"CREATE TABLE {table.name} " in sql


# Faults


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("nonsense", UserError, "URL is faulty"),
        ("nosuch://x/y", UserError, "URL is faulty"),
        ("postgresql+pg8000://u@localhost/x", UserError, "driver is missing"),
        ("sqlite:////no/such/folder/x.db", Unreachable, "cannot be opened"),
    ],
)
def test_a_faulty_url_is_named(url: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Database(url)


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    try:
        database = Database("postgresql+pg8000://u:hunter2@localhost/x")
    except UserError as error:
        assert "hunter2" not in str(error)
    else:
        assert "hunter2" not in database.url


def test_a_damaged_file_is_named(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(Failure, match="damaged"):
        Database(path)
