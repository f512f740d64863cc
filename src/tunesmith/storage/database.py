"""The database: SQLite in the workspace's folder, or any by URL.

Only the server writes it. A change is on the disk before ``session`` returns (WAL with ``synchronous=FULL``), so what
was acknowledged survives a kill and a power cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError
from sqlalchemy.orm import Session

from tunesmith.errors import Conflict, DiskFull, Failure, Unreachable, UserError, ValidationFailed
from tunesmith.storage.atomic import disk_full

HEAD = "0002"
"""The newest revision of ``migrations/``. A test keeps it true; with it, a database that is up to date opens without
loading Alembic, and so does one that is new."""

BUSY_TIMEOUT_MS = 10_000


class Database:
    """An open database.

    Args:
        url: an SQLAlchemy URL, or the path of an SQLite file.
        migrate: bring the schema up to date (the server does); otherwise it must be.

    Raises:
        UserError: the URL is faulty or its driver is missing.
        Unreachable: it does not answer.
        Conflict: its schema is newer than this code, or older and ``migrate`` is false.
    """

    def __init__(self, url: str | Path, *, migrate: bool = True) -> None:
        text_url = f"sqlite:///{url}" if isinstance(url, Path) else url
        self._engine = _engine(text_url)
        self._reader = self._engine.execution_options(tunesmith_read=True)
        self.url = self._engine.url.render_as_string(hide_password=True)
        try:
            self._bring_up_to_date(migrate)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session that writes: one transaction, kept when the block ends well, undone otherwise.

        Keep the block short: while it runs, other writers wait.

        Raises:
            DiskFull: no room for the change.
        """
        with Session(self._engine, expire_on_commit=False) as session, _faults_named(self.url), session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that reads one consistent state and never waits for a writer. Changes in it are not kept."""
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session, _faults_named(self.url):
            yield session

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """The engine beneath, for migrations and tests."""
        return self._engine

    def _bring_up_to_date(self, migrate: bool) -> None:
        with _faults_named(self.url), self._engine.connect() as connection:
            found = _revision(connection)
            empty = found is None and not inspect(connection).get_table_names()
        if found == HEAD:
            return
        if empty and migrate:
            with _faults_named(self.url):
                _make_tables(self._engine)
            return
        from tunesmith.storage.migrations import known_revisions, upgrade

        if found is not None and found not in known_revisions():
            raise Conflict(
                f"the database has revision {found}, which this Tunesmith does not know (it knows up to {HEAD}); "
                "a newer one made it",
                target=self.url,
                way_out="install the newer Tunesmith again, or use another workspace",
            )
        if not migrate:
            raise Conflict(
                f"the database has revision {found or 'none'} and needs {HEAD}",
                target=self.url,
                way_out="start the workspace's server once: tunesmith up",
            )
        with _faults_named(self.url):
            upgrade(self._engine)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        options: dict[str, Any] = {}
        if sqlite:
            options["connect_args"] = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
        else:
            options["pool_pre_ping"] = True
        # As many as the server has threads, so that none waits for a connection.
        options |= {"pool_size": 10, "max_overflow": 40}
        engine = create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError) as error:
        raise UserError(
            f"the database's URL is faulty: {error}",
            target="database_url",
            way_out="sqlite:////path/to/file.db, or postgresql+psycopg://user@host/name",
        ) from None
    except ImportError as error:
        raise UserError(
            f"the database's driver is missing: {error}",
            target="database_url",
            way_out="pip install psycopg[binary] for postgresql+psycopg://…",
        ) from None
    if sqlite:
        _prepare_sqlite(engine)
    return engine


def _prepare_sqlite(engine: Engine) -> None:
    def connected(connection: Any, _: Any) -> None:
        # We begin transactions ourselves: the driver would begin them late, and a late upgrade from reading to
        # writing fails at once, without waiting for the other writer.
        connection.isolation_level = None
        try:
            for pragma in (
                f"busy_timeout={BUSY_TIMEOUT_MS}",
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
            ):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise

    def begun(connection: Connection) -> None:
        reads = connection.get_execution_options().get("tunesmith_read", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.execute(text("SELECT version_num FROM alembic_version")).first()
    return str(row[0]) if row else None


def _make_tables(engine: Engine) -> None:
    """Make the newest schema in an empty database, in one transaction: what the migrations make step by step.

    Loading Alembic takes longer than all else that a new workspace's server does with its database.
    """
    from tunesmith.storage.tables import Table

    with engine.begin() as connection:
        Table.metadata.create_all(connection)
        connection.execute(text(_VERSIONS))
        connection.execute(text("INSERT INTO alembic_version (version_num) VALUES (:head)"), {"head": HEAD})


_VERSIONS = (
    "CREATE TABLE alembic_version "
    "(version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)
"""As Alembic makes it."""


@contextmanager
def _faults_named(url: str) -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        cause = str(error.orig)
        if "NUL (0x00)" in cause:
            # SQLite keeps the character, PostgreSQL has no text with it.
            raise ValidationFailed(
                "a text has a NUL character, which cannot be kept", way_out="leave it out"
            ) from error
        if "disk is full" in cause:
            raise _full(url) from error
        if "unable to open" in cause or "refused" in cause or "could not" in cause:
            raise Unreachable(f"the database cannot be opened: {cause}", target=url) from error
        if "malformed" in cause or "not a database" in cause:
            raise Failure(
                f"the database file is damaged: {cause}", target=url, way_out="put a copy back, or move the file away"
            ) from error
        raise


def _full(url: str) -> DiskFull:
    return disk_full(Path(make_url(url).database or "."))
