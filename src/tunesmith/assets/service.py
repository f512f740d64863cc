"""What the services of all four kinds of asset have in common: find, list, describe, label, archive, delete.

An asset version never changes, but for its description, its tags and whether it is archived. ``latest`` is always the
newest version that is not archived; other labels are set by hand.

The server is the only writer, so a lock in this process is enough to give out versions one at a time.
"""

from __future__ import annotations

import builtins
import difflib
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tunesmith.assets.references import LATEST, AssetReference, parse_asset
from tunesmith.assets.registry import SystemRegistry, version_order
from tunesmith.errors import AlreadyExists, Conflict, Fault, NotAllowed, NotFound, ValidationFailed
from tunesmith.records.assets import WORKSPACE, AssetKind, AssetVersion, UpdateAsset
from tunesmith.records.base import utcnow
from tunesmith.records.jobs import JobStatus
from tunesmith.storage import names
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import AssetLabelRow, AssetNameRow, AssetRow, DeploymentRow, JobRow

R = TypeVar("R", bound=AssetVersion)


class AssetService(ABC, Generic[R]):
    """One kind of asset, on the workspace's shelf and in the system registry.

    ``registry`` is ``workspace``, the system registry's name, or ``None``: the shelf first, then the registry.
    """

    kind: ClassVar[AssetKind]
    word: ClassVar[str]
    """What one of them is called in a message."""

    def __init__(
        self, database: Database, store: ArtifactStore, system: SystemRegistry, *, paths: WorkspacePaths
    ) -> None:
        self._database = database
        self._store = store
        self._system = system
        self._paths = paths
        self._lock = threading.RLock()

    # Reading

    def get(self, name: str, version: str | None = None, *, label: str | None = None, registry: str | None = None) -> R:
        """One version: by version, by label, or the latest.

        Raises:
            NotFound: there is none; the message says what there is.
            ValidationFailed: both a version and a label.
        """
        if version is not None and label is not None:
            raise ValidationFailed("give a version or a label, not both", target="label")
        return self.resolve(AssetReference(name, version, label, registry, self.kind))

    def resolve(self, reference: str | AssetReference, *, target: str | None = None) -> R:
        """The version that a reference points at.

        Raises:
            ValidationFailed: it is no reference to one of this kind.
            NotFound: it points at nothing.
        """
        wanted = parse_asset(reference, kind=self.kind, target=target) if isinstance(reference, str) else reference
        shelves = self._shelves(wanted.registry)
        for shelf in shelves:
            versions = self.versions(wanted.name, registry=shelf)
            if versions:
                return self._choose(versions, wanted, shelf)
        raise self._no_such_name(wanted.name, shelves)

    def versions(self, name: str, *, registry: str = WORKSPACE) -> builtins.list[R]:
        """Every version of ``name`` on one shelf, archived ones too, newest first; empty when there is no such name."""
        if registry == WORKSPACE:
            with self._database.reading() as session:
                return self._read(session, AssetRow.name == name)
        self._check_registry(registry)
        return self._from_system(name)

    def list(
        self,
        registry: str | None = None,
        *,
        name: str | None = None,
        search: str | None = None,
        tag: str | None = None,
        archived: bool = False,
    ) -> builtins.list[R]:
        """Versions by name, newest first within a name.

        Args:
            registry: one shelf, or ``None`` for all.
            name: only versions of this one.
            search: words that must all be in the name, the description or the tags; case does not count.
            tag: ``key`` or ``key=value``.
            archived: also those that were archived.
        """
        found: builtins.list[R] = []
        for shelf in self._shelves(registry):
            if name is not None:
                found += self.versions(name, registry=shelf)
            elif shelf == WORKSPACE:
                with self._database.reading() as session:
                    found += self._read(session)
            else:
                found += self._from_system(None)
        return [item for item in found if (archived or not item.archived) and _matches(item, search, tag)]

    def next_version(self, name: str) -> str:
        """The version that ``name`` would get on the workspace's shelf if it were registered now without one."""
        with self._database.reading() as session:
            taken = set(session.scalars(select(AssetRow.version).where(*self._named(name))))
            counter = session.get(AssetNameRow, (self.kind, name))
        return str(_next_number(taken, counter.last_number if counter else 0))

    # Changing what may change

    def update(self, name: str, version: str, change: UpdateAsset, *, registry: str | None = None) -> R:
        """Change the description, the tags (as a whole) or whether it is archived.

        Raises:
            NotFound: there is no such version.
            NotAllowed: it is in a registry that is only read.
        """
        self._writable(name, registry)
        with self._database.session() as session:
            row = self._row(session, name, version)
            if change.description is not None:
                row.description = change.description
            if change.tags is not None:
                row.tags = dict(change.tags)
            if change.archived is not None:
                row.archived = change.archived
        return self.get(name, version, registry=WORKSPACE)

    def archive(self, name: str, version: str) -> R:
        """Hide a version from lists and from ``latest``; it can still be used by its version."""
        return self.update(name, version, UpdateAsset(archived=True))

    def restore(self, name: str, version: str) -> R:
        """Undo ``archive``."""
        return self.update(name, version, UpdateAsset(archived=False))

    def set_label(self, name: str, label: str, version: str) -> R:
        """Point ``label`` at a version; where it pointed before no longer counts.

        Raises:
            Conflict: ``latest`` cannot be set.
        """
        names.LABEL.check(label, "label")
        if label == LATEST:
            raise Conflict(
                "'latest' is always the newest version that is not archived",
                target="label",
                way_out="archive the newer versions, or choose another label",
            )
        with self._database.session() as session:
            self._row(session, name, version)
            session.merge(AssetLabelRow(kind=self.kind, name=name, label=label, version=version))
        return self.get(name, version, registry=WORKSPACE)

    def remove_label(self, name: str, label: str) -> None:
        """Take a label away.

        Raises:
            NotFound: there is no such label.
        """
        with self._database.session() as session:
            row = session.get(AssetLabelRow, (self.kind, name, label))
            if row is None:
                raise NotFound(f"the {self.word} {name!r} has no label {label!r}", target="label")
            session.delete(row)

    def delete(self, name: str, version: str, *, registry: str | None = None) -> int:
        """Delete a version with its files; the bytes freed.

        Raises:
            NotFound: there is no such version.
            NotAllowed: it is in a registry that is only read.
            Conflict: a deployment serves it, or a job that has not ended uses it.
        """
        self._writable(name, registry)
        with self._lock:
            record = self.get(name, version, registry=WORKSPACE)
            self.check_unused(record)
            # The row goes first: what a kill leaves then is files without a name, which the next start removes.
            with self._database.session() as session:
                row = self._row(session, name, version)
                uri = row.uri
                session.delete(row)
                session.execute(
                    delete(AssetLabelRow).where(
                        AssetLabelRow.kind == self.kind, AssetLabelRow.name == name, AssetLabelRow.version == version
                    )
                )
                session.flush()
                if session.scalars(self._query(AssetRow.name == name).limit(1)).first() is None:
                    session.execute(
                        delete(AssetNameRow).where(AssetNameRow.kind == self.kind, AssetNameRow.name == name)
                    )
            return self._store.delete(uri) if uri else 0

    def check_unused(self, record: R) -> None:
        """Refuse when a deployment serves ``record`` or a job that has not ended names it.

        Raises:
            Conflict: naming who uses it.
        """
        with self._database.reading() as session:
            served = session.execute(
                select(DeploymentRow.endpoint, DeploymentRow.name).where(DeploymentRow.model == record.id)
            ).first()
            ended = [status.value for status in JobStatus if status.terminal]
            jobs = session.scalars(select(JobRow).where(JobRow.status.not_in(ended))).all()
        if served is not None:
            raise Conflict(
                f"{record.id} is served by the deployment {served.name!r} of the endpoint {served.endpoint!r}",
                target=record.id,
                way_out="delete the deployment first: "
                f"tunesmith deployments delete {served.name} --endpoint {served.endpoint}",
            )
        for job in jobs:
            if _names(self._text_of(job), record):
                raise Conflict(
                    f"{record.id} is used by the job {job.name}, which has not ended",
                    target=record.id,
                    way_out=f"wait for it, or: tunesmith jobs cancel {job.name}",
                )

    def _text_of(self, job: JobRow) -> str:
        """Whatever a job names: what was asked, and what that was resolved to."""
        text = json.dumps([job.spec, job.inputs])
        with suppress(OSError):
            text += (self._paths.job(job.name) / "graph.json").read_text("utf-8")
        return text

    # Registering

    @contextmanager
    def _registering(self, name: str, version: str | None) -> Iterator[str]:
        """Yield the version to register ``name`` under, while no other registration of this kind goes on.

        Raises:
            ValidationFailed: the name or the version keeps not to its rule; both at once.
            AlreadyExists: the version is taken.
        """
        faults = [
            Fault(f"{text[:80]!r} is not a {rule.what}", target, way_out=rule.words)
            for rule, text, target in ((names.ASSET_NAME, name, "name"), (names.ASSET_VERSION, version, "version"))
            if text is not None and not rule.admits(text)
        ]
        if faults:
            raise ValidationFailed(f"the {self.word} cannot be registered", details=faults)
        with self._lock:
            with self._database.reading() as session:
                taken = set(session.scalars(select(AssetRow.version).where(*self._named(name))))
                counter = session.get(AssetNameRow, (self.kind, name))
            if version is not None and version in taken:
                raise AlreadyExists(
                    f"the {self.word} {name!r} has a version {version!r} already, and versions never change",
                    target="version",
                    way_out="leave the version out to get the next number, or choose another",
                )
            chosen = version or str(_next_number(taken, counter.last_number if counter else 0))
            # Files without a row are what a kill between the two left behind.
            self._store.delete(self._uri(name, chosen))
            try:
                yield chosen
            except BaseException:
                with self._database.reading() as session:
                    kept = session.scalars(self._query(AssetRow.name == name, AssetRow.version == chosen)).first()
                if kept is None:
                    self._store.delete(self._uri(name, chosen))
                raise

    def _keep(self, name: str, version: str, **columns: Any) -> R:
        """Write the row of a new version, and move the counter of its name on."""
        with self._database.session() as session:
            session.add(AssetRow(kind=self.kind, name=name, version=version, created_at=utcnow(), **columns))
            counter = session.get(AssetNameRow, (self.kind, name))
            if counter is None:
                counter = AssetNameRow(kind=self.kind, name=name, last_number=0)
                session.add(counter)
            if version.isdigit() and len(version) < 10:
                counter.last_number = max(counter.last_number, int(version))
        return self.get(name, version, registry=WORKSPACE)

    def _uri(self, name: str, version: str) -> str:
        return self._store.uri_for(self.kind, name, version)

    # Rows and records

    @abstractmethod
    def _record(self, row: AssetRow, labels: builtins.list[str]) -> R:
        """The record of a row on the workspace's shelf."""

    def _system_record(self, record: R) -> R:
        """A record of the system registry, with what this machine knows about it."""
        return record

    def _common(self, row: AssetRow, labels: builtins.list[str]) -> dict[str, Any]:
        return {
            "registry": WORKSPACE,
            "name": row.name,
            "version": row.version,
            "id": str(AssetReference(row.name, row.version)),
            "description": row.description,
            "tags": dict(row.tags),
            "properties": dict(row.properties),
            "labels": labels,
            "archived": row.archived,
            "created_at": row.created_at,
        }

    def _named(self, name: str) -> tuple[Any, Any]:
        return AssetRow.kind == self.kind, AssetRow.name == name

    def _query(self, *conditions: Any) -> Any:
        return select(AssetRow).where(AssetRow.kind == self.kind, *conditions)

    def _row(self, session: Session, name: str, version: str) -> AssetRow:
        row: AssetRow | None = session.scalars(self._query(AssetRow.name == name, AssetRow.version == version)).first()
        if row is None:
            versions = self.versions(name)
            if not versions:
                raise self._no_such_name(name, [WORKSPACE])
            raise self._no_such_version(versions, AssetReference(name, version), WORKSPACE)
        return row

    def _read(self, session: Session, *conditions: Any) -> builtins.list[R]:
        rows: Sequence[AssetRow] = session.scalars(
            self._query(*conditions).order_by(AssetRow.name, AssetRow.id.desc())
        ).all()
        labels: dict[tuple[str, str], builtins.list[str]] = {}
        for label in session.scalars(select(AssetLabelRow).where(AssetLabelRow.kind == self.kind)):
            labels.setdefault((label.name, label.version), []).append(label.label)
        found: builtins.list[R] = []
        newest: set[str] = set()
        for row in rows:
            own = sorted(labels.get((row.name, row.version), []))
            if not row.archived and row.name not in newest:
                newest.add(row.name)
                own.insert(0, LATEST)
            found.append(self._record(row, own))
        return found

    def _from_system(self, name: str | None) -> builtins.list[R]:
        records: builtins.list[Any] = [
            record for record in self._system.assets(self.kind) if name is None or record.name == name
        ]
        # Two stable sorts: by name, and within a name the newest first.
        records.sort(key=lambda record: version_order(record.version), reverse=True)
        records.sort(key=lambda record: record.name.lower())
        found: builtins.list[R] = []
        newest: set[str] = set()
        for record in records:
            labels = [label for label in record.labels if label != LATEST]
            if not record.archived and record.name not in newest:
                newest.add(record.name)
                labels.insert(0, LATEST)
            found.append(self._system_record(record.model_copy(update={"labels": labels})))
        return found

    # Finding

    def _shelves(self, registry: str | None) -> builtins.list[str]:
        if registry is None:
            return [WORKSPACE, self._system.name]
        if registry != WORKSPACE:
            self._check_registry(registry)
        return [registry]

    def _check_registry(self, registry: str) -> None:
        if registry != self._system.name:
            raise NotFound(
                f"there is no registry {registry[:80]!r}",
                target="registry",
                way_out=f"registries: {WORKSPACE}, {self._system.name}",
            )

    def _writable(self, name: str, registry: str | None) -> None:
        if registry not in {None, WORKSPACE}:
            self._check_registry(str(registry))
            raise NotAllowed(
                f"the registry {registry!r} is only read; its {self.word} {name!r} stays as it is",
                target="registry",
                way_out="register a copy on the workspace's own shelf",
            )

    def _choose(self, versions: builtins.list[R], wanted: AssetReference, shelf: str) -> R:
        label = wanted.label or (LATEST if wanted.version is None else None)
        for item in versions:
            if item.version == wanted.version if label is None else label in item.labels:
                return item
        raise self._no_such_version(versions, wanted, shelf)

    def _no_such_version(self, versions: builtins.list[R], wanted: AssetReference, shelf: str) -> NotFound:
        there = ", ".join(item.version + (" (archived)" if item.archived else "") for item in versions[:8])
        more = f" and {len(versions) - 8} more" if len(versions) > 8 else ""
        if wanted.version is not None:
            what = f"no version {wanted.version!r}"
        elif (wanted.label or LATEST) == LATEST:
            what = "only archived versions, so none is the latest"
        else:
            what = f"no label {wanted.label!r}"
        where = "" if shelf == WORKSPACE else f" in the registry {shelf!r}"
        return NotFound(
            f"the {self.word} {wanted.name!r}{where} has {what}",
            target=str(wanted),
            way_out=f"there are: {there}{more}",
        )

    def _no_such_name(self, name: str, shelves: Sequence[str]) -> NotFound:
        known: dict[str, str] = {}
        for shelf in (WORKSPACE, self._system.name):
            for item in self.list(registry=shelf, archived=True):
                known.setdefault(item.name, shelf)
        folded = {key.lower(): key for key in known}
        close = [folded[key] for key in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.6)]
        if name in known and known[name] not in shelves:
            close = [name]
        hint = ", ".join(f"{item} (registry {known[item]})" for item in close)
        where = "" if len(shelves) > 1 else f" in the registry {shelves[0]!r}"
        there = ", ".join(sorted(known, key=str.lower)[:20]) or "none yet"
        way_out = f"did you mean {hint}?" if hint else f"there are: {there}"
        return NotFound(f"there is no {self.word} {name[:80]!r}{where}", target="name", way_out=way_out)


def _next_number(taken: set[str], last: int) -> int:
    number = last + 1
    while str(number) in taken:
        number += 1
    return number


def _names(text: str, record: AssetVersion) -> bool:
    """Whether a JSON text has the record's id, or its path or one below it."""
    path = getattr(record, "path", None)
    wanted = [json.dumps(record.id)]
    if path:
        inner = json.dumps(path)[:-1]
        wanted += [f'{inner}"', f"{inner}/"]
    return any(words in text for words in wanted)


def _matches(item: AssetVersion, search: str | None, tag: str | None) -> bool:
    if tag is not None:
        key, separator, value = tag.partition("=")
        if key not in item.tags or (separator and item.tags[key] != value):
            return False
    if search:
        text = " ".join([item.name, item.description, *_flat(item.tags)]).lower()
        return all(word in text for word in search.lower().split())
    return True


def _flat(tags: Mapping[str, str]) -> Iterator[str]:
    for key, value in tags.items():
        yield f"{key} {value}"
