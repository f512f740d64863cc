"""Shows the workspace's registered models in MLflow's model registry.

MLflow numbers versions itself, so our version is in a tag. It takes a version's files only from below the artifacts of
a run; the files are linked there, which costs no room. A model from a job stands under the job's run, another under a
run of its own.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from sqlalchemy import Select, delete, select, update

from tunesmith.assets.references import AssetReference
from tunesmith.storage import atomic
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import AssetRow, MirrorRow
from tunesmith.tracking.jobs import MODEL_PREFIX
from tunesmith.tracking.rest import MISSING, MlflowError, MlflowRest, Run

log = logging.getLogger("tunesmith.tracking")

KEY_TAG = "tunesmith.key"
EXPERIMENT = "Registered models"
"""Where the runs of models stand that no job made."""
ARTIFACTS = "mlflow-artifacts:/"


class ModelMirror:
    """Copies registered models to MLflow."""

    def __init__(self, database: Database, paths: WorkspacePaths, store: ArtifactStore) -> None:
        self._database = database
        self._paths = paths
        self._store = store

    def pending(self) -> list[str]:
        """Keys of the models that MLflow has and the workspace no longer, and of those that MLflow does not have."""
        with self._database.reading() as session:
            rows = session.scalars(select(AssetRow).where(AssetRow.kind == "models").order_by(AssetRow.id)).all()
            mirrored = session.scalars(select(MirrorRow).where(MirrorRow.job.startswith(MODEL_PREFIX))).all()
        here = [_key(row) for row in rows]
        done = {entry.job for entry in mirrored if entry.done}
        # What is gone goes first: another model may stand under its version by now.
        return sorted({entry.job for entry in mirrored} - set(here)) + [key for key in here if key not in done]

    def copy(self, rest: MlflowRest, key: str) -> None:
        """Bring MLflow up to date with one model.

        Raises:
            MlflowError, httpx.HTTPError: MLflow does not take it now.
        """
        name, version, _ = key.removeprefix(MODEL_PREFIX).split(":")
        with self._database.reading() as session:
            row = session.scalars(_version(name, version)).first()
        try:
            if row is None or _key(row) != key:
                self._forget(rest, key, name, version)
                return
            number, run = self._register(rest, row)
        except MlflowError as error:
            if not error.lasting:
                raise
            log.warning("MLflow refuses the model %s %s (%s); it is not shown there", name, version, error)
            number, run = "", None
        with self._database.session() as session:
            session.merge(MirrorRow(job=key, step=number, run_id=run.id if run else None, events_offset=0, done=True))

    def unlink(self, name: str, version: str) -> None:
        """Take away the links to a model's files, so that deleting the model gives its bytes back at once.

        Should the same model be registered again, it is linked again.
        """
        with self._database.session() as session:
            row = session.scalars(_version(name, version)).first()
            if row is not None:
                session.execute(update(MirrorRow).where(MirrorRow.job == _key(row)).values(done=False))
        for folder in self._paths.mlflow_artifacts.glob(f"*/*/artifacts/{_place(name, version)}"):
            atomic.remove(folder)

    def _register(self, rest: MlflowRest, row: AssetRow) -> tuple[str, Run]:
        run = self._run(rest, row)
        source = self._source(row, run)
        rest.create_registered_model(row.name)
        number = rest.find_model_version(row.name, KEY_TAG, _key(row))
        if number is None:
            tags = {
                **{key: value for key, value in row.tags.items() if value},
                KEY_TAG: _key(row),
                "tunesmith.id": str(AssetReference(row.name, row.version)),
                "tunesmith.version": row.version,
                "tunesmith.sha256": row.sha256 or "",
            }
            number = rest.create_model_version(row.name, source, run.id, description=row.description, tags=tags)
        return number, run

    def _run(self, rest: MlflowRest, row: AssetRow) -> Run:
        job = (row.body.get("lineage") or {}).get("job")
        if job:
            with self._database.reading() as session:
                mirror = session.get(MirrorRow, (job, ""))
            if mirror is not None and mirror.run_id is not None:
                try:
                    return rest.get_run(mirror.run_id)
                except MlflowError as error:
                    if error.code != MISSING:
                        raise
        experiment = rest.experiment(EXPERIMENT)
        tags = {KEY_TAG: _key(row)}
        found = rest.find_run(experiment, tags)
        if found is None:
            started = int(row.created_at.timestamp() * 1000)
            found = rest.create_run(experiment, f"{row.name} {row.version}", started, tags)
            rest.end_run(found.id, "FINISHED", started)
        return found

    def _source(self, row: AssetRow, run: Run) -> str:
        """What MLflow names as the place of the files."""
        local = self._store.path_for(row.uri) if row.uri else None
        if local is None:
            return f"{self._store.url.rstrip('/')}/{(row.uri or '').partition('/paths/')[2]}"
        if not run.artifact_uri.startswith(ARTIFACTS):
            raise MlflowError("INVALID_PARAMETER_VALUE", f"unexpected place of artifacts: {run.artifact_uri}", 400)
        place = _place(row.name, row.version)
        target = self._paths.mlflow_artifacts / run.artifact_uri.removeprefix(ARTIFACTS) / place
        if not target.exists():
            with atomic.new_folder(target) as aside:
                _link(local, aside)
        return f"{run.artifact_uri}/{place}"

    def _forget(self, rest: MlflowRest, key: str, name: str, version: str) -> None:
        with self._database.reading() as session:
            numbers = session.scalars(select(MirrorRow.step).where(MirrorRow.job == key)).all()
        for number in numbers:
            if number:
                rest.delete_model_version(name, number)
        self.unlink(name, version)
        with self._database.session() as session:
            session.execute(delete(MirrorRow).where(MirrorRow.job == key))


def _version(name: str, version: str) -> Select[AssetRow]:
    return select(AssetRow).where(AssetRow.kind == "models", AssetRow.name == name, AssetRow.version == version)


def _key(row: AssetRow) -> str:
    """A model in the mirror: with a hash, because a version that was deleted may be given to another model."""
    return f"{MODEL_PREFIX}{row.name}:{row.version}:{(row.sha256 or '')[:12]}"


def _place(name: str, version: str) -> str:
    return f"registered/{name}/{version}"


def _link(source: Path, target: Path) -> None:
    """Link every file of a folder (or one file) into the folder ``target``; copy where links cannot be."""
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    for path in files:
        place = target / (path.name if source.is_file() else path.relative_to(source))
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:
            shutil.copyfile(path, place)
