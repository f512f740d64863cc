from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.workspace import add_job, add_output, temporary_workspace, until
from tunesmith.errors import (
    AlreadyExists,
    Conflict,
    Failure,
    InvalidModel,
    NotFound,
    ValidationFailed,
)
from tunesmith.evaluate import LossResult, ModelEvaluation, compare
from tunesmith.generate.engines.exports import INT8, export_key
from tunesmith.models import ModelPackage
from tunesmith.models.catalogue import entries
from tunesmith.records.assets import ImportModel, LineageItem, RegisterModel
from tunesmith.records.jobs import JobStatus
from tunesmith.workspace import Services

BASE = "SmolLM2-135M-Instruct"


def evaluation(folder: Path, perplexity: float, base: float) -> Path:
    """An evaluation with these perplexities."""

    def of(name: str, value: float) -> ModelEvaluation:
        loss = LossResult(
            loss=1.0,
            perplexity=value,
            accuracy=0.5,
            end_of_turn_accuracy=None,
            trained_tokens=10,
            tokens=20,
            rows=2,
            seconds=1.0,
        )
        return ModelEvaluation(name=name, loss=loss)

    return compare(of("base", base), of("tuned", perplexity)).save(folder)


@pytest.fixture
def a_job(workspace: Services, package: Path, tmp_path: Path) -> Callable[..., str]:
    """Makes a finished job with a trained model, an evaluation and a lineage."""

    def make(name: str = "tune", *, perplexity: float = 5.0, base: float = 9.0) -> str:
        add_job(workspace, name)
        add_output(workspace, name, "trained_model", package)
        add_output(
            workspace, name, "evaluation_result", evaluation(tmp_path / f"{name}-e", perplexity, base), "uri_folder"
        )
        items = [
            {"role": "base_model", "reference": "azureml://registries/azureml/models/x/versions/1", "sha256": "a" * 64},
            {"role": "train", "reference": "azureml:chat:1", "sha256": "b" * 64, "detail": {"rows": 12}},
            {"role": "parameters", "reference": "parameters", "sha256": "c" * 64, "detail": {"lora_r": 8}},
        ]
        body = {"job": name, "step": "chat_completion_finetune", "items": items}
        (workspace.paths.job(name) / "lineage.json").write_text(json.dumps(body))
        return f"azureml://jobs/{name}/outputs/trained_model"

    return make


def test_a_jobs_output_is_registered_with_all_that_is_known_of_it(
    workspace: Services, package: Path, a_job: Callable[..., str]
) -> None:
    path = a_job()
    made = workspace.models.register(RegisterModel(name="chat", path=path, description="d", tags={"a": "b"}))
    manifest = ModelPackage.open(package).manifest
    assert (made.id, made.state, made.type, made.source, made.labels) == (
        "azureml:chat:1",
        "imported",
        "mlflow_model",
        path,
        ["latest"],
    )
    assert (made.sha256, made.architecture, made.parameter_count, made.context_length, made.chat_contract) == (
        manifest.sha256,
        manifest.architecture,
        manifest.parameter_count,
        manifest.context_length,
        manifest.chat_contract,
    )
    assert made.metrics["perplexity"] == 5.0
    assert made.metrics["base_perplexity"] == 9.0
    assert made.lineage is not None
    assert (made.lineage.job, made.lineage.step, made.lineage.created_by) == ("tune", "chat_completion_finetune", "job")
    assert [item.role for item in made.lineage.items] == ["base_model", "train", "parameters", "template"]
    assert made.lineage.items[1] == LineageItem(
        role="train", reference="azureml:chat:1", sha256="b" * 64, detail={"rows": 12}
    )
    assert made.lineage.items[3].sha256 == manifest.chat_contract
    assert made.path is not None
    ModelPackage.open(made.path, full=True)
    assert workspace.models.get("chat", "1") == made
    assert workspace.models.fetch("azureml:chat@latest") == made


def test_a_jobs_output_costs_no_room_and_gives_it_back_when_both_are_gone(
    workspace: Services, a_job: Callable[..., str]
) -> None:
    made = workspace.models.register(RegisterModel(name="chat", path=a_job()))
    assert made.path is not None
    assert (Path(made.path) / "model.safetensors").stat().st_nlink == 2
    assert workspace.models.delete("chat", "1") == 0  # the job has the files still
    assert not Path(made.path).exists()
    assert workspace.store.delete(workspace.store.uri_for("jobs", "tune")) > (made.size_bytes or 0)


def test_a_folder_is_copied(workspace: Services, package: Path) -> None:
    made = workspace.models.register(RegisterModel(name="chat", path=str(package), version="2026.1+x"))
    shutil.rmtree(package)
    assert made.path is not None
    ModelPackage.open(made.path, full=True)
    assert made.version == "2026.1+x"
    assert made.lineage is not None
    assert (made.lineage.job, made.lineage.created_by) == (None, "folder")
    assert made.lineage.items[0] == LineageItem(role="source", reference=str(package), sha256=made.sha256)
    assert workspace.models.delete("chat", "2026.1+x") == made.size_bytes


def test_an_mlflow_folder_that_holds_a_package(workspace: Services, package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}\n")
    package.rename(folder / "model")
    made = workspace.models.register(RegisterModel(name="chat", path=str(folder)))
    assert made.sha256 == ModelPackage.open(folder).sha256
    assert made.path is not None
    assert (Path(made.path) / "MLmodel").is_file()


def test_the_gate_holds_registration_back_with_the_numbers(workspace: Services, a_job: Callable[..., str]) -> None:
    path = a_job(perplexity=9.5, base=9.0)
    with pytest.raises(Conflict, match=r"perplexity <= base.*9\.5 <= 9 does not hold") as caught:
        workspace.models.register(RegisterModel(name="chat", path=path, gate="perplexity <= base"))
    assert caught.value.target == "gate"
    assert workspace.models.list("workspace") == []
    assert not (workspace.paths.artifacts / "models" / "chat" / "1").exists()
    made = workspace.models.register(RegisterModel(name="chat", path=path, gate="perplexity <= base * 1.1"))
    assert made.version == "1"


def test_a_gate_that_is_none_or_has_nothing_to_judge(
    workspace: Services, package: Path, a_job: Callable[..., str]
) -> None:
    with pytest.raises(ValidationFailed, match="gate"):
        workspace.models.register(RegisterModel(name="chat", path=a_job(), gate="perplexity <="))
    with pytest.raises(Conflict, match="needs an evaluation"):
        workspace.models.register(RegisterModel(name="chat", path=str(package), gate="perplexity <= base"))
    assert workspace.models.list("workspace") == []


def damage_weights(package: Path) -> None:
    with (package / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\xff\xff\xff\xff")


def cut_weights(package: Path) -> None:
    with (package / "model.safetensors").open("r+b") as file:
        file.truncate(1000)


def no_manifest(package: Path) -> None:
    (package / "package.json").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [(damage_weights, "sha256"), (cut_weights, "cut short"), (no_manifest, "no model package")],
)
def test_a_folder_that_is_no_whole_model_is_refused(
    workspace: Services, package: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(package)
    with pytest.raises(InvalidModel, match=message):
        workspace.models.register(RegisterModel(name="chat", path=str(package)))
    assert workspace.models.list("workspace") == []


def test_a_custom_model_may_be_any_files_but_no_damaged_package(
    workspace: Services, package: Path, tmp_path: Path
) -> None:
    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "weights.bin").write_bytes(b"123")
    made = workspace.models.register(RegisterModel(name="any", path=str(tmp_path / "any"), type="custom_model"))
    assert (made.type, made.size_bytes, made.architecture) == ("custom_model", 3, None)
    cut_weights(package)
    with pytest.raises(InvalidModel, match="cut short"):
        workspace.models.register(RegisterModel(name="any", path=str(package), type="custom_model"))


def test_a_damaged_lineage_is_named(workspace: Services, a_job: Callable[..., str]) -> None:
    path = a_job()
    (workspace.paths.job("tune") / "lineage.json").write_text("{")
    with pytest.raises(Failure, match=r"lineage\.json: the job's lineage cannot be read"):
        workspace.models.register(RegisterModel(name="chat", path=path))


def test_a_taken_version_is_refused_before_anything_is_read(workspace: Services, package: Path) -> None:
    workspace.models.register(RegisterModel(name="chat", path=str(package), version="1"))
    with pytest.raises(AlreadyExists):
        workspace.models.register(RegisterModel(name="chat", path="/no/such/folder", version="1"))


def test_a_model_in_a_store_elsewhere_is_fetched_when_needed(tmp_path: Path, package: Path) -> None:
    with temporary_workspace(tmp_path / "home", artifact_url="memory://models-elsewhere") as workspace:
        made = workspace.models.register(RegisterModel(name="chat", path=str(package)))
        assert (made.state, made.path) == ("imported", None)
        fetched = workspace.models.fetch(made.id)
        assert fetched.path is not None
        ModelPackage.open(fetched.path, full=True)
        assert workspace.models.delete("chat", "1") == made.size_bytes
        assert not Path(fetched.path).exists()


# The system registry


def test_the_registry_has_the_catalogues_models(workspace: Services) -> None:
    found = workspace.models.list("azureml")
    assert {model.name for model in found} == {entry.name for entry in entries()}
    model = workspace.models.get(BASE)
    assert (model.registry, model.id, model.state, model.path, model.labels) == (
        "azureml",
        f"azureml://registries/azureml/models/{BASE}/versions/{model.version}",
        "available",
        None,
        ["latest"],
    )
    assert model.source is not None
    assert model.license == "apache-2.0"
    assert "finetune_compute_allow_list" in model.tags
    assert [m.name for m in workspace.models.list(search="smollm2")] == [BASE]


def test_weights_that_are_not_here_say_how_to_get_them(workspace: Services) -> None:
    with pytest.raises(InvalidModel, match="are not on this machine") as caught:
        workspace.models.fetch(BASE)
    assert caught.value.way_out == f"import them first: tunesmith models import {BASE}"


def test_an_imported_model_is_what_its_package_says_until_it_is_deleted(workspace: Services, package: Path) -> None:
    model = workspace.models.get(BASE)
    folder = workspace.models.package_folder(model)
    add_job(workspace, "fetch", status=JobStatus.RUNNING, properties={"tunesmith.import": model.id})
    assert workspace.models.get(BASE).state == "importing"
    with pytest.raises(InvalidModel, match="are being imported"):
        workspace.models.fetch(BASE)
    folder.parent.mkdir(parents=True)
    package.rename(folder)
    manifest = ModelPackage.open(folder).manifest
    here = workspace.models.fetch(BASE)
    assert (here.state, here.path, here.sha256, here.architecture, here.source) == (
        "imported",
        str(folder),
        manifest.sha256,
        manifest.architecture,
        manifest.origin.source,
    )
    assert here.size_bytes == manifest.size_bytes
    assert here.tags == model.tags
    exports = workspace.paths.engine_exports
    ours = exports / export_key(ModelPackage.open(folder), manifest.dtype)
    others = exports / "another"
    for export in (ours, others):
        export.mkdir(parents=True)
        (export / "model.bin").write_bytes(b"x" * 4096)
    (exports / f"{export_key(ModelPackage.open(folder), INT8)}.refused.json").write_bytes(b"{}" * 50)
    freed = workspace.models.delete(BASE, model.version, registry="azureml")
    assert freed == manifest.size_bytes + manifest_size(manifest) + 4096 + 100
    assert list(exports.iterdir()) == [others]
    assert workspace.models.get(BASE).path is None


def manifest_size(manifest: Any) -> int:
    return len((json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False) + "\n").encode())


# Importing


def inputs_of(workspace: Services, job: str) -> dict[str, Any]:
    return workspace.jobs.get(job).inputs


@pytest.fixture
def runs(workspace: Services) -> Iterator[Services]:
    """The workspace, whose jobs have all ended when the test has."""
    yield workspace
    for job in workspace.jobs.list():
        workspace.jobs.cancel(job.name)
    until(lambda: not workspace.jobs.reconcile(), "the jobs have ended")


def test_importing_a_registrys_model_starts_a_job(runs: Services) -> None:
    model = runs.models.get(BASE)
    job = runs.import_model(ImportModel(name=BASE, source="/no/such/folder"))
    assert job is not None
    assert inputs_of(runs, job.name) == {
        "name": BASE,
        "version": model.version,
        "registry": "azureml",
        "source": "/no/such/folder",
        "force": "false",
    }
    assert runs.models.get(BASE).state == "importing"
    with pytest.raises(Conflict, match="is being imported"):
        runs.import_model(ImportModel(name=f"azureml:{BASE}:{model.version}"))
    until(lambda: not runs.jobs.reconcile(), "the import has ended")
    assert runs.jobs.get(job.name).status == JobStatus.FAILED
    assert "/no/such/folder" in json.dumps(runs.jobs.get(job.name).error)
    assert runs.models.get(BASE).state == "available"


def test_nothing_is_imported_twice_unless_it_must(runs: Services, package: Path) -> None:
    folder = runs.models.package_folder(runs.models.get(BASE))
    folder.parent.mkdir(parents=True)
    package.rename(folder)
    assert runs.import_model(ImportModel(name=BASE)) is None
    with pytest.raises(AlreadyExists, match="come from"):
        runs.import_model(ImportModel(name=BASE, source="/elsewhere"))
    job = runs.import_model(ImportModel(name=BASE, source="/no/such/folder", force=True))
    assert job is not None
    assert inputs_of(runs, job.name)["force"] == "true"


def test_a_name_that_no_registry_has_needs_a_source(runs: Services) -> None:
    with pytest.raises(NotFound, match="no model 'mine'"):
        runs.import_model(ImportModel(name="mine"))
    with pytest.raises(NotFound, match="no version '9'"):
        runs.import_model(ImportModel(name=BASE, version="9", registry="azureml"))


def test_a_folder_is_imported_onto_the_shelf(runs: Services, tiny_llama: Path) -> None:
    job = runs.import_model(ImportModel(name="mine", source=str(tiny_llama)))
    assert job is not None
    assert inputs_of(runs, job.name)["registry"] == "workspace"
    assert runs.models.list("workspace") == []
    until(lambda: not runs.jobs.reconcile(), "the import has ended")
    assert runs.jobs.get(job.name).error is None
    (made,) = runs.models.list("workspace")
    assert (made.id, made.state, made.source, made.labels) == (
        "azureml:mine:1",
        "imported",
        str(tiny_llama),
        ["latest"],
    )


def test_what_was_imported_onto_the_shelf_is_registered_once_its_job_has_ended(
    workspace: Services, package: Path
) -> None:
    folder = workspace.paths.package("workspace", "mine", "1")
    folder.parent.mkdir(parents=True)
    package.rename(folder)
    origin = ModelPackage.open(folder).manifest.origin
    (folder.parent / ".2.aside-1-00000000").mkdir()  # another import, half made
    add_job(workspace, "fetch", status=JobStatus.RUNNING, properties={"tunesmith.import": "azureml:mine:1"})
    assert workspace.models.list("workspace") == []
    with workspace.database.session() as session:
        from tunesmith.storage.tables import JobRow

        session.get_one(JobRow, "fetch").status = JobStatus.COMPLETED
    (made,) = workspace.models.list("workspace")
    assert (made.id, made.state, made.source) == ("azureml:mine:1", "imported", origin.source)
    assert made.lineage is not None
    assert made.lineage.created_by == "import"
    assert made.path is not None
    ModelPackage.open(made.path, full=True)
    assert not folder.exists()
    assert workspace.models.get("mine") == made
    with pytest.raises(AlreadyExists):
        workspace.import_model(ImportModel(name="mine", version="1", source="/x", registry="workspace", force=True))
    again = ImportModel(name="mine", version="1", source=origin.source, registry="workspace")
    assert workspace.import_model(again) is None


def test_a_damaged_import_is_not_kept(workspace: Services, package: Path) -> None:
    folder = workspace.paths.package("workspace", "mine", "1")
    folder.parent.mkdir(parents=True)
    cut_weights(package)
    package.rename(folder)
    assert workspace.models.list("workspace") == []
    assert not folder.parent.exists()
