"""What Azure ML's SDK says and does here when things go wrong, and when less usual things go well.

Run in an environment that has the SDK: ``tunesmith azure run sdk_checks.py [CHECK…]``. Prints a line for each check and
ends with 1 where one failed.
"""

# mypy: ignore-errors
# ruff: noqa: D1

from __future__ import annotations

import contextlib
import filecmp
import functools
import io
import json
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import mlflow
from azure.ai.ml import Input, MLClient, load_component
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import (
    AmlCompute,
    CodeConfiguration,
    Data,
    Environment,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.ai.ml.exceptions import JobException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential

credential = DefaultAzureCredential()
ml = MLClient.from_config(credential=credential)
registry = MLClient(credential, registry_name="azureml")
base = registry.models.get("Phi-3-mini-4k-instruct", label="latest")
checks = []


def check(function):
    checks.append(function)
    return function


@contextlib.contextmanager
def raises(kind, *words):
    """The block must raise ``kind``, and its message must have every one of ``words``."""
    try:
        yield
    except kind as error:
        text = str(error)
        assert all(word in text for word in words), f"{words} are not all in: {text}"
        return
    raise AssertionError(f"nothing was raised, though {kind.__name__} should be")


@functools.cache
def component():
    """The system component, read once: the SDK takes its time over it."""
    return registry.components.get(name="chat_completion_pipeline", label="latest")


def job_of(train="data/train.jsonl", **parameters):
    @pipeline(name="checks", experiment_name="checks")
    def make():
        node = component()(
            mlflow_model_path=base.id,
            train_file_path=Input(type="uri_file", path=train),
            **{"apply_lora": "true", "max_steps": 2, **parameters},
        )
        return {"trained_model": node.outputs.mlflow_model_folder}

    made = make()
    made.settings.continue_on_step_failure = False
    return made


def streamed(name):
    """What ``jobs.stream`` prints, and what it raises."""
    printed, error = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            ml.jobs.stream(name)
        except Exception as raised:
            error = raised
    return printed.getvalue(), error


def until(condition):
    """Wait until it holds."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def request_file(body):
    path = Path("request.json")
    path.write_text(json.dumps(body))
    return str(path)


ASK = {
    "input_data": {
        "input_string": [{"role": "user", "content": "What about paint?"}],
        "parameters": {"do_sample": False, "max_new_tokens": 8},
    }
}


# The registry, assets, jobs of one's own


@check
def the_registry_is_read_and_its_models_are_downloaded():
    assert registry.registries.get("azureml").name == "azureml"
    assert [found.name for found in ml.registries.list()] == ["azureml"]
    registry.models.download(base.name, base.version, download_path="from-registry")
    (found,) = Path("from-registry").rglob("package.json")
    names = sorted(path.name for path in Path("model-folder").iterdir())
    assert filecmp.cmpfiles("model-folder", found.parent, names, shallow=False)[0] == names


@check
def data_is_registered_described_archived_and_restored():
    made = ml.data.create_or_update(Data(name="rows", path="data/train.jsonl", type="uri_file", properties={"p": "1"}))
    assert (made.version, made.properties) == ("1", {"p": "1"}) and made.path.endswith("/data/rows/1/train.jsonl")
    made.tags["a"] = "1"
    assert ml.data.create_or_update(made).tags == {"a": "1"}
    ml.data.archive("rows", version="1")
    assert list(ml.data.list("rows")) == []
    ml.data.restore("rows", version="1")
    assert ml.data.get("rows", label="latest").version == "1"


COMPONENT = """
name: count
version: "1"
type: command
inputs:
  rows: {type: uri_file}
  more: {type: integer, min: 0, max: 9, default: 1}
outputs:
  out: {type: uri_folder}
code: ./counting
environment: azureml:plain@latest
command: python count.py ${{inputs.rows}} ${{inputs.more}} ${{outputs.out}}
"""
COUNT = """
import pathlib, sys
rows, more, out = sys.argv[1:]
count = len(open(rows).readlines()) + int(more)
print("counted", count)
(pathlib.Path(out) / "count.txt").write_text(str(count))
"""


@check
def a_component_of_ones_own_is_registered_and_downloaded():
    Path("counting").mkdir()
    Path("counting", "count.py").write_text(COUNT)
    Path("count.yml").write_text(COMPONENT)
    ml.environments.create_or_update(Environment(name="plain", image="some/image:1"))
    made = ml.components.create_or_update(load_component("count.yml"))
    assert (made.name, made.version, int(made.inputs["more"]["max"])) == ("count", "1", 9)
    ml.components.archive("count", version="1")
    assert list(ml.components.list("count")) == []
    ml.components.restore("count", version="1")
    ml.components.download("count", "count-again", version="1")
    assert Path("count-again", "code", "count.py").read_text() == COUNT


@check
def a_pipeline_of_ones_own_runs_is_streamed_downloaded_and_found_in_mlflow():
    ml.compute.begin_create_or_update(AmlCompute(name="counter", size="Standard_DS3_v2")).result()
    count = ml.components.get("count", version="1")

    @pipeline(experiment_name="counting", default_compute="counter")
    def make(more=1):
        node = count(rows=Input(type="uri_file", path="azureml:rows:1"), more=more)
        return {"counted": node.outputs.out}

    with raises(HttpResponseError, "more", "9"):
        ml.jobs.create_or_update(make(12))
    job = ml.jobs.create_or_update(make(2))
    printed, error = streamed(job.name)
    assert error is None, (error, printed)
    (child,) = ml.jobs.list(parent_job_name=job.name)
    assert (child.display_name, child.status) == ("node", "Completed")
    assert "Studio" in ml.jobs.show_services(job.name)
    ml.jobs.download(job.name, download_path="counted", all=True)
    ml.jobs.download(child.name, download_path="of-child", all=True)
    (text,) = {path.read_text() for path in Path("counted").rglob("count.txt")}
    assert text == str(len(Path("data/train.jsonl").read_text().splitlines()) + 2)
    (log,) = Path("of-child").rglob("std_log.txt")
    assert log.read_text().endswith(f"counted {text}\n")
    made = ml.models.create_or_update(
        Model(name="counted", type="custom_model", path=f"azureml://jobs/{job.name}/outputs/counted")
    )
    assert made.job_name == job.name
    mlflow.set_tracking_uri(ml.workspaces.get(ml.workspace_name).mlflow_tracking_uri)
    mlflow.set_experiment("counting")
    with mlflow.start_run() as run:
        mlflow.log_metric("count", 3)
        mlflow.log_text(text, "notes/count.txt")
    until(lambda: mlflow.get_run(job.name).info.status == "FINISHED")  # its mirror follows the job
    found = mlflow.search_runs(experiment_names=["counting"])
    assert found["metrics.count"].dropna().tolist() == [3.0] and len(found) == 2
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/count.txt") == text


# Jobs that cannot be, or go wrong


@check
def a_wrong_enum_is_refused_by_its_name():
    with raises(HttpResponseError, "lr_scheduler_type", "bogus", "cosine"):
        ml.jobs.create_or_update(job_of(lr_scheduler_type="bogus"))


@check
def a_value_out_of_bounds_is_refused_by_its_name():
    with raises(HttpResponseError, "num_train_epochs"):
        ml.jobs.create_or_update(job_of(num_train_epochs=0))


@check
def a_missing_local_file_is_named():
    with raises(Exception, "nowhere.jsonl"):
        ml.jobs.create_or_update(job_of(train="data/nowhere.jsonl"))


@check
def a_missing_file_in_the_datastore_is_named():
    with raises(HttpResponseError, "nowhere.jsonl"):
        ml.jobs.create_or_update(job_of(train="azureml://datastores/workspaceblobstore/paths/nowhere.jsonl"))


@check
def an_unknown_component_is_not_found():
    with raises(Exception, "no_such_component"):
        registry.components.get(name="no_such_component", version="1")


@check
def a_job_that_fails_raises_with_its_cause():
    Path("faulty.jsonl").write_text('{"messages": [{"role": "robot", "content": "x"}]}\n')
    job = ml.jobs.create_or_update(job_of(train="faulty.jsonl"))
    printed, error = streamed(job.name)
    assert isinstance(error, JobException), (error, printed)
    assert "robot" in str(error) and "faulty.jsonl" in str(error), error
    assert ml.jobs.get(job.name).status == "Failed"


@check
def a_job_is_canceled_while_it_is_streamed():
    job = ml.jobs.create_or_update(job_of())
    result = []
    watcher = threading.Thread(target=lambda: result.append(streamed(job.name)))
    watcher.start()
    end = time.monotonic() + 300
    while ml.jobs.get(job.name).status not in ("Running", "Queued"):
        assert time.monotonic() < end
        time.sleep(0.2)
    ml.jobs.begin_cancel(job.name).wait()
    watcher.join(300)
    assert not watcher.is_alive()
    printed, error = result[0]
    assert error is None, error
    end = time.monotonic() + 300  # the stream may end as soon as the cancel is asked for
    while ml.jobs.get(job.name).status != "Canceled":
        assert time.monotonic() < end, printed
        time.sleep(0.2)


@check
def two_scripts_at_once_get_nothing_of_each_other():
    command = [sys.executable, __file__, "--one-of-two"]
    pair = [subprocess.Popen([*command, me], stdout=-1, stderr=-2, text=True) for me in ("anna", "otto")]
    for process in pair:
        printed = process.communicate()[0]
        assert process.returncode == 0, printed


def one_of_two(me):
    """What each of two scripts does, that run at the same time over the same files."""
    other = {"anna": "otto", "otto": "anna"}[me]
    Path(f"of-{me}.jsonl").write_text(json.dumps({"messages": [{"role": me, "content": "x"}]}))
    shared = Input(type="uri_file", path="data/validation.jsonl")
    job = ml.jobs.create_or_update(job_of(train=f"of-{me}.jsonl", validation_file_path=shared))
    printed, error = streamed(job.name)
    assert isinstance(error, JobException), (error, printed)
    said = printed + str(error)
    assert f"of-{me}.jsonl" in said and f"of-{other}.jsonl" not in said, said
    # A folder of its own: the SDK names an upload by its content, and of two uploads of one name at once one fails.
    Path(f"model-of-{me}").mkdir()
    Path(f"model-of-{me}", "notes.txt").write_text(me)
    made = ml.models.create_or_update(Model(name=f"of-{me}", path=f"model-of-{me}", type="custom_model"))
    assert (made.version, [model.version for model in ml.models.list(f"of-{me}")]) == ("1", ["1"])


# Models


@check
def a_folder_is_registered_read_listed_archived_and_downloaded():
    made = ml.models.create_or_update(
        Model(name="folder", path="model-folder", type="custom_model", description="a package", tags={"a": "1"})
    )
    assert (made.name, made.version, made.type, made.tags) == ("folder", "1", "custom_model", {"a": "1"})
    again = ml.models.create_or_update(Model(name="folder", path="model-folder", type="custom_model"))
    assert again.version == "2"
    assert ml.models.get("folder", label="latest").version == "2"
    assert [model.version for model in ml.models.list("folder")] == ["2", "1"]
    assert "folder" in [model.name for model in ml.models.list()]

    ml.models.archive("folder", version="2")
    assert ml.models.get("folder", label="latest").version == "1"
    assert [model.version for model in ml.models.list("folder")] == ["1"]
    assert [model.version for model in ml.models.list("folder", list_view_type="All")] == ["2", "1"]
    ml.models.restore("folder", version="2")
    assert ml.models.get("folder", label="latest").version == "2"
    ml.models.archive("folder")
    assert "folder" not in [model.name for model in ml.models.list()]
    ml.models.restore("folder")
    assert "folder" in [model.name for model in ml.models.list()]

    ml.models.download("folder", "1", download_path="downloaded")
    names = sorted(path.name for path in Path("model-folder").iterdir())
    found = next(path.parent for path in Path("downloaded").rglob("package.json"))
    assert sorted(path.name for path in found.iterdir()) == names
    assert filecmp.cmpfiles("model-folder", found, names, shallow=False)[0] == names

    made.description = "the same, described anew"
    made.tags["b"] = "2"
    changed = ml.models.create_or_update(made)
    assert (changed.version, changed.description, changed.tags) == ("1", made.description, {"a": "1", "b": "2"})

    copied = ml.models.create_or_update(Model(name="copied", version="v1", path=made.path, type="custom_model"))
    assert (copied.name, copied.version) == ("copied", "v1")
    with raises(Exception, "path"):
        ml.models.create_or_update(Model(name="copied", version="v1", path="data", type="custom_model"))


@check
def models_that_are_not_there_are_not_found():
    with raises(ResourceNotFoundError, "no-such-model"):
        ml.models.get("no-such-model", version="1")
    with raises(HttpResponseError, "no_such_job"):
        ml.models.create_or_update(Model(name="x", path="azureml://jobs/no_such_job/outputs/trained_model"))


# Endpoints


@check
def an_endpoint_serves_a_model_of_the_registry():
    ml.online_endpoints.begin_create_or_update(
        ManagedOnlineEndpoint(name="talk", auth_mode="key", tags={"for": "checks"}, properties={"p": "q"})
    ).result()
    blue = ml.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(
            name="blue",
            endpoint_name="talk",
            model=base.id,
            instance_type="Standard_NC6s_v3",
            instance_count=1,
            liveness_probe=ProbeSettings(initial_delay=30, period=11, timeout=3, failure_threshold=7),
            readiness_probe=ProbeSettings(initial_delay=1, period=2),
            request_settings=OnlineRequestSettings(
                request_timeout_ms=90000, max_queue_wait_ms=5000, max_concurrent_requests_per_instance=3
            ),
            environment_variables={"A": "b"},
            app_insights_enabled=True,
        )
    ).result()
    assert (blue.provisioning_state, blue.instance_count, blue.model) == ("Succeeded", 1, base.id)
    got = ml.online_deployments.get("blue", "talk")
    assert got.liveness_probe == ProbeSettings(
        initial_delay=30, period=11, timeout=3, failure_threshold=7, success_threshold=1
    )
    assert got.request_settings == OnlineRequestSettings(
        request_timeout_ms=90000, max_queue_wait_ms=5000, max_concurrent_requests_per_instance=3
    )
    assert got.environment_variables == {"A": "b"} and got.app_insights_enabled
    assert "Standard_NC6s_v3 promises" in got.properties["tunesmith.notices"]
    assert "Application Insights" in got.properties["tunesmith.notices"]
    assert [deployment.name for deployment in ml.online_deployments.list("talk")] == ["blue"]
    assert "ready" in ml.online_deployments.get_logs("blue", "talk", lines=50).lower()

    endpoint = ml.online_endpoints.get("talk")
    assert (endpoint.traffic, endpoint.auth_mode, endpoint.tags) == ({"blue": 0}, "key", {"for": "checks"})
    endpoint.traffic = {"blue": 100}
    assert ml.online_endpoints.begin_create_or_update(endpoint).result().traffic == {"blue": 100}
    assert ml.online_endpoints.get("talk").properties["p"] == "q"
    assert "talk" in [endpoint.name for endpoint in ml.online_endpoints.list()]
    answer = json.loads(ml.online_endpoints.invoke("talk", request_file=request_file(ASK)))
    assert answer["usage"]["completion_tokens"] <= 8 and answer["output"]


@check
def a_bad_payload_says_what_is_wrong_with_it():
    with raises(HttpResponseError, "input_data"):
        ml.online_endpoints.invoke("talk", request_file=request_file({"messages": []}))
    wrong = {"input_data": {"input_string": [{"role": "robot", "content": "x"}]}}
    with raises(HttpResponseError, "robot"):
        ml.online_endpoints.invoke("talk", request_file=request_file(wrong))
    with raises(Exception, "green"):
        ml.online_endpoints.invoke("talk", deployment_name="green", request_file=request_file(ASK))


@check
def traffic_keys_and_tokens():
    endpoint = ml.online_endpoints.get("talk")
    for traffic, words in (({"blue": 50}, ["50", "100"]), ({"green": 100}, ["green", "blue"])):
        endpoint.traffic = traffic
        with raises(HttpResponseError, *words):
            ml.online_endpoints.begin_create_or_update(endpoint)
    with raises(HttpResponseError, "traffic"):
        ml.online_deployments.begin_delete("blue", "talk").result()

    before = ml.online_endpoints.get_keys("talk")
    ml.online_endpoints.begin_regenerate_keys("talk", key_type="secondary").result()
    after = ml.online_endpoints.get_keys("talk")
    assert after.primary_key == before.primary_key and after.secondary_key != before.secondary_key

    endpoint = ml.online_endpoints.get("talk")
    endpoint.auth_mode = "aml_token"
    ml.online_endpoints.begin_create_or_update(endpoint).result()
    token = ml.online_endpoints.get_keys("talk")
    assert token.token_type == "Bearer" and token.expiry_time_utc > time.time()
    assert json.loads(ml.online_endpoints.invoke("talk", request_file=request_file(ASK)))["output"]
    with raises(HttpResponseError, "AADToken"):
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="aad-talk", auth_mode="aad_token"))


@check
def a_deployment_is_changed_in_place():
    blue = ml.online_deployments.get("blue", "talk")
    blue.instance_count = 0
    blue.tags = {"scaled": "down"}
    endpoint = ml.online_endpoints.get("talk")
    endpoint.traffic = {}
    ml.online_endpoints.begin_create_or_update(endpoint).result()
    changed = ml.online_deployments.begin_create_or_update(blue).result()
    assert changed.tags == {"scaled": "down"}
    assert changed.environment_variables == {"A": "b"} and changed.app_insights_enabled


@check
def what_only_azure_has_is_refused_by_its_field():
    code = Path("code")
    code.mkdir(exist_ok=True)
    (code / "score.py").write_text("def init(): ...\n\n\ndef run(data): ...\n")
    environment = Environment(name="mine", version="1", image="some/image:1")
    for more, word in (
        ({"environment": environment}, "environmentId"),
        ({"code_configuration": CodeConfiguration(code="code", scoring_script="score.py")}, "codeConfiguration"),
    ):
        deployment = ManagedOnlineDeployment(name="green", endpoint_name="talk", model=base.id, **more)
        with raises(HttpResponseError, word):
            ml.online_deployments.begin_create_or_update(deployment)
    with raises(Exception, "Standard_None"):
        ml.online_deployments.begin_create_or_update(
            ManagedOnlineDeployment(name="green", endpoint_name="talk", model=base.id, instance_type="Standard_None")
        )


@check
def a_broken_model_fails_with_its_cause():
    broken = ml.models.create_or_update(Model(name="broken", path="data", type="custom_model"))
    deployment = ManagedOnlineDeployment(
        name="broken", endpoint_name="talk", model=broken.id, instance_type="Standard_DS3_v2", instance_count=1
    )
    with raises(HttpResponseError, "package"):
        ml.online_deployments.begin_create_or_update(deployment).result()


@check
def nothing_is_left_after_a_delete():
    ml.online_endpoints.begin_delete("talk").result()
    with raises(ResourceNotFoundError, "talk"):
        ml.online_endpoints.get("talk")
    assert not list(ml.online_endpoints.list())
    with raises(ResourceNotFoundError, "talk"):
        ml.online_endpoints.begin_delete("talk").result()


def main():
    if sys.argv[1:2] == ["--one-of-two"]:
        one_of_two(sys.argv[2])
        return 0
    wanted = sys.argv[1:]
    failed = 0
    for function in checks:
        if wanted and function.__name__ not in wanted:
            continue
        start = time.perf_counter()
        try:
            function()
            said = "ok"
        except Exception:
            failed += 1
            said = f"FAILED\n{traceback.format_exc()}"
        print(f"check {function.__name__}: {said} ({time.perf_counter() - start:.1f} s)", flush=True)
    print(f"{failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
