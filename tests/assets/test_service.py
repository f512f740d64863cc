"""What all kinds have in common, shown with environments (which have no files) and data assets (which have)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.workspace import add_job
from tunesmith.assets.registry import version_order
from tunesmith.errors import AlreadyExists, Conflict, NotAllowed, NotFound, ValidationFailed
from tunesmith.records.assets import EnvironmentVersion, RegisterData, UpdateAsset
from tunesmith.records.jobs import JobStatus
from tunesmith.storage.tables import AssetNameRow, DeploymentRow, EndpointRow
from tunesmith.workspace import Services


def make(workspace: Services, name: str, version: str | None = None, **rest: object) -> EnvironmentVersion:
    return workspace.environments.register(name, {"image": "x"}, version=version, **rest)  # type: ignore[arg-type]


def test_versions_are_given_out_in_whole_numbers_beside_any_string(workspace: Services) -> None:
    found = [
        make(workspace, "e", version).version for version in (None, None, "v1.0+cpu", None, "7", None, "2024-1", None)
    ]
    assert found == ["1", "2", "v1.0+cpu", "3", "7", "8", "2024-1", "9"]


def test_a_number_is_not_given_out_twice_until_the_name_is_gone(workspace: Services) -> None:
    make(workspace, "e")
    make(workspace, "e")
    workspace.environments.delete("e", "2")
    assert workspace.environments.next_version("e") == "3"
    assert make(workspace, "e").version == "3"
    workspace.environments.delete("e", "1")
    workspace.environments.delete("e", "3")
    with workspace.database.reading() as session:
        assert session.get(AssetNameRow, ("environments", "e")) is None
    assert workspace.environments.next_version("e") == "1"
    assert make(workspace, "e").version == "1"


def test_a_version_never_changes(workspace: Services) -> None:
    make(workspace, "e", "1")
    with pytest.raises(AlreadyExists, match="has a version '1' already") as caught:
        make(workspace, "e", "1")
    assert caught.value.target == "version"
    assert make(workspace, "e").version == "2"


def test_faulty_names_and_versions_are_refused_at_once(workspace: Services) -> None:
    with pytest.raises(ValidationFailed) as caught:
        make(workspace, "../e", "a/b")
    assert [fault.target for fault in caught.value.details] == ["name", "version"]


def test_latest_is_the_newest_that_is_not_archived(workspace: Services) -> None:
    for version in ("2", "10", "9"):
        make(workspace, "e", version)
    assert workspace.environments.get("e").version == "9"  # registered last
    assert workspace.environments.get("e").labels == ["latest"]
    workspace.environments.archive("e", "9")
    assert workspace.environments.get("e", label="latest").version == "10"
    assert workspace.environments.get("e", "9").archived  # still to be had by its version
    workspace.environments.restore("e", "9")
    assert workspace.environments.resolve("azureml:e@latest").version == "9"
    for version in ("2", "10", "9"):
        workspace.environments.archive("e", version)
    with pytest.raises(NotFound, match="only archived versions"):
        workspace.environments.get("e")


def test_labels_point_at_versions(workspace: Services) -> None:
    make(workspace, "e", "1")
    make(workspace, "e", "2")
    workspace.environments.set_label("e", "stable", "1")
    assert workspace.environments.get("e", label="stable").version == "1"
    assert workspace.environments.get("e", "1").labels == ["stable"]
    workspace.environments.set_label("e", "stable", "2")
    assert workspace.environments.get("e", "2").labels == ["latest", "stable"]
    with pytest.raises(NotFound, match="no version '3'"):
        workspace.environments.set_label("e", "stable", "3")
    with pytest.raises(Conflict, match="'latest' is always"):
        workspace.environments.set_label("e", "latest", "1")
    workspace.environments.remove_label("e", "stable")
    with pytest.raises(NotFound, match="no label 'stable'"):
        workspace.environments.get("e", label="stable")
    with pytest.raises(NotFound):
        workspace.environments.remove_label("e", "stable")
    workspace.environments.set_label("e", "gone", "2")
    workspace.environments.delete("e", "2")
    with pytest.raises(NotFound):
        workspace.environments.remove_label("e", "gone")


def test_what_may_change_changes_and_nothing_else(workspace: Services) -> None:
    before = make(workspace, "e", description="one", tags={"a": "1"})
    after = workspace.environments.update("e", "1", UpdateAsset(description="two"))
    assert after == before.model_copy(update={"description": "two"})
    after = workspace.environments.update("e", "1", UpdateAsset(tags={"b": "2"}))
    assert (after.description, after.tags) == ("two", {"b": "2"})
    with pytest.raises(NotFound):
        workspace.environments.update("e", "2", UpdateAsset(description="x"))


def test_lists_are_by_name_newest_first_and_filtered(workspace: Services) -> None:
    make(workspace, "beta", "1", description="For Training", tags={"task": "chat", "team": "blue"})
    make(workspace, "alpha", "1", tags={"task": "chat"})
    make(workspace, "alpha", "2", tags={"task": "other"})
    make(workspace, "alpha", "3")
    workspace.environments.archive("alpha", "3")

    def names(**filters: object) -> list[str]:
        return [f"{e.name}:{e.version}" for e in workspace.environments.list("workspace", **filters)]  # type: ignore[arg-type]

    assert names() == ["alpha:2", "alpha:1", "beta:1"]
    assert names(archived=True) == ["alpha:3", "alpha:2", "alpha:1", "beta:1"]
    assert names(name="alpha") == ["alpha:2", "alpha:1"]
    assert names(tag="task") == ["alpha:2", "alpha:1", "beta:1"]
    assert names(tag="task=chat") == ["alpha:1", "beta:1"]
    assert names(search="training BLUE") == ["beta:1"]
    assert names(search="nothing") == []


def test_what_is_not_there_says_what_there_is(workspace: Services) -> None:
    make(workspace, "training-env", "1")
    make(workspace, "training-env", "2")
    workspace.environments.archive("training-env", "2")
    with pytest.raises(NotFound, match="no environment 'trainin-env'") as caught:
        workspace.environments.get("trainin-env")
    assert caught.value.way_out == "did you mean training-env (registry workspace)?"
    with pytest.raises(NotFound, match="no version '3'") as caught:
        workspace.environments.get("training-env", "3")
    assert caught.value.way_out == "there are: 2 (archived), 1"
    with pytest.raises(NotFound, match="no registry 'nowhere'"):
        workspace.environments.get("training-env", registry="nowhere")
    with pytest.raises(ValidationFailed, match="a version or a label"):
        workspace.environments.get("training-env", "1", label="latest")


def test_a_component_of_the_registry_is_found_and_never_changed(workspace: Services) -> None:
    found = workspace.components.get("chat_completion_pipeline")
    assert (found.registry, found.labels) == ("azureml", ["latest"])
    reference = f"azureml://registries/azureml/components/{found.name}/versions/{found.version}"
    assert found.id == reference
    assert workspace.components.resolve(reference) == found
    assert workspace.components.resolve(f"azureml:{found.name}@latest") == found
    with pytest.raises(NotFound, match="in the registry 'workspace'") as caught:
        workspace.components.get(found.name, registry="workspace")
    assert caught.value.way_out == f"did you mean {found.name} (registry azureml)?"
    for change in (
        lambda: workspace.components.update(found.name, found.version, UpdateAsset(archived=True), registry="azureml"),
        lambda: workspace.components.delete(found.name, found.version, registry="azureml"),
    ):
        with pytest.raises(NotAllowed, match="only read"):
            change()


def test_the_shelf_comes_before_the_registry(workspace: Services) -> None:
    spec = {"name": "model_import", "type": "command", "command": "true", "environment": "azureml:x@latest"}
    from tunesmith.records.assets import RegisterComponent

    mine = workspace.components.register(RegisterComponent(spec=spec))
    assert workspace.components.get("model_import") == mine
    assert workspace.components.get("model_import", registry="azureml").registry == "azureml"
    assert [c.registry for c in workspace.components.list(name="model_import")] == ["workspace", "azureml"]


def test_a_served_version_stays(workspace: Services) -> None:
    made = make(workspace, "e")
    settings: dict[str, object] = {}
    with workspace.database.session() as session:
        session.add(
            EndpointRow(
                name="chat", auth_mode="key", provisioning_state="Succeeded", primary_key="x", secondary_key="x"
            )
        )
        session.flush()
        session.add(
            DeploymentRow(
                endpoint="chat",
                name="blue",
                model=made.id,
                instance_count=1,
                instance_type="local",
                engine="auto",
                precision="auto",
                request_settings=settings,
                liveness_probe=settings,
                readiness_probe=settings,
                provisioning_state="Succeeded",
            )
        )
    with pytest.raises(Conflict, match=r"azureml:e:1 is served by the deployment 'blue' of the endpoint 'chat'"):
        workspace.environments.delete("e", "1")


def test_a_version_that_a_job_uses_stays_until_it_ends(workspace: Services, conversations: Path) -> None:
    data = workspace.data.register(RegisterData(name="d", path=str(conversations)))
    add_job(workspace, "j", status=JobStatus.RUNNING, inputs={"train": {"path": data.id}})
    with pytest.raises(Conflict, match=r"azureml:d:1 is used by the job j") as caught:
        workspace.data.delete("d", "1")
    assert "tunesmith jobs cancel j" in str(caught.value.way_out)
    add_job(workspace, "k", status=JobStatus.RUNNING, inputs={"train": {"path": f"{data.id}0"}})  # another version
    with workspace.database.session() as session:
        from tunesmith.storage.tables import JobRow

        session.get_one(JobRow, "j").status = JobStatus.COMPLETED
    assert workspace.data.delete("d", "1") == data.size_bytes


def test_what_a_jobs_graph_was_resolved_to_counts_as_used(workspace: Services, conversations: Path) -> None:
    for _ in range(10):
        workspace.data.register(RegisterData(name="d", path=str(conversations)))
    used = workspace.data.get("d", "10").path
    add_job(workspace, "j", status=JobStatus.RUNNING, inputs={"train": {"path": "azureml:d@latest"}})
    (workspace.paths.job("j") / "graph.json").write_text(f'{{"path": "{used}"}}')
    with pytest.raises(Conflict, match="is used by the job j"):
        workspace.data.delete("d", "10")
    assert workspace.data.delete("d", "1") > 0


def test_the_installed_environment_is_in_the_registry(workspace: Services) -> None:
    found = workspace.environments.get("installed")
    assert (found.registry, found.version) == ("azureml", found.sha256[:12])
    assert any(line.startswith("pydantic==") for line in found.spec["distributions"])


def test_a_registration_that_fails_leaves_nothing(workspace: Services, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        workspace.data.register(RegisterData(name="d", path=str(tmp_path / "gone.jsonl")))
    assert workspace.data.list("workspace") == []
    assert not (workspace.paths.artifacts / "data" / "d" / "1").exists()


def test_files_without_a_row_do_not_stand_in_the_way(workspace: Services, conversations: Path) -> None:
    orphan = workspace.paths.artifacts / "data" / "d" / "1" / "old.jsonl"
    orphan.parent.mkdir(parents=True)
    orphan.write_text("left by a kill between the files and the row")
    made = workspace.data.register(RegisterData(name="d", path=str(conversations)))
    assert made.version == "1"
    assert not orphan.exists()


def test_numbers_in_versions_sort_as_numbers() -> None:
    assert sorted(["10", "9", "1.10", "1.9", "2", "1"], key=version_order) == ["1", "1.9", "1.10", "2", "9", "10"]
