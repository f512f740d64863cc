"""The few calls of MLflow's REST API that the mirror makes. Knows nothing of jobs; never imports MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

API = "/mlflow/api/2.0/mlflow"
MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_TAGS = 100
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 5000

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

MISSING = "RESOURCE_DOES_NOT_EXIST"
TAKEN = "RESOURCE_ALREADY_EXISTS"


class MlflowError(Exception):
    """MLflow refused a call. ``code`` is its own; ``status`` is HTTP's."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.status = status

    @property
    def lasting(self) -> bool:
        """Whether the same call would be refused again."""
        return 400 <= self.status < 500 and self.status not in {408, 429}


@dataclass(frozen=True, slots=True)
class Metric:
    """One value of one metric."""

    key: str
    value: float
    timestamp: int
    """Milliseconds since 1970."""
    step: int


@dataclass(frozen=True, slots=True)
class Run:
    """A run of MLflow."""

    id: str
    experiment_id: str
    artifact_uri: str

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Run:
        """From an answer's ``run``."""
        info = body["info"]
        return cls(info["run_id"], info["experiment_id"], info["artifact_uri"])


class MlflowRest:
    """A connection to MLflow's server.

    Args:
        address: such as ``http://127.0.0.1:41234``.
        secret_path: what the path of every call begins with, before ``/mlflow``.
        timeout: seconds for one call.
    """

    def __init__(self, address: str, secret_path: str, *, timeout: float = 30.0) -> None:
        import httpx

        self._client = httpx.Client(base_url=f"{address}{secret_path}", timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call ``path`` of the REST API.

        Raises:
            MlflowError: it was refused.
            httpx.HTTPError: no answer came.
        """
        if method == "GET":
            response = self._client.get(f"{API}/{path}", params=dict(body))
        else:
            response = self._client.request(method, f"{API}/{path}", json=dict(body))
        if response.status_code >= 400:
            try:
                fault = response.json()
                code, message = str(fault.get("error_code", "")), str(fault.get("message", ""))
            except ValueError:
                code, message = "", response.text[:300]
            raise MlflowError(code, message, response.status_code)
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer

    # Experiments and runs

    def experiment(self, name: str) -> str:
        """The id of the experiment ``name``, made where there is none, taken back where it was deleted."""
        try:
            found = self.call("GET", "experiments/get-by-name", {"experiment_name": name})["experiment"]
        except MlflowError as error:
            if error.code != MISSING:
                raise
            try:
                return str(self.call("POST", "experiments/create", {"name": name})["experiment_id"])
            except MlflowError as race:
                if race.code != TAKEN:
                    raise
                found = self.call("GET", "experiments/get-by-name", {"experiment_name": name})["experiment"]
        if found.get("lifecycle_stage") == "deleted":
            self.call("POST", "experiments/restore", {"experiment_id": found["experiment_id"]})
        return str(found["experiment_id"])

    def find_run(self, experiment_id: str, tags: Mapping[str, str]) -> Run | None:
        """The oldest run that has all of ``tags``."""
        clauses = " and ".join(f"tags.`{key}` = '{_quoted(value)}'" for key, value in tags.items())
        answer = self.call(
            "POST",
            "runs/search",
            {
                "experiment_ids": [experiment_id],
                "filter": clauses,
                "max_results": 1,
                "order_by": ["attributes.start_time ASC"],
            },
        )
        runs = answer.get("runs", [])
        return Run.of(runs[0]) if runs else None

    def create_run(self, experiment_id: str, name: str, start_time: int, tags: Mapping[str, str]) -> Run:
        """A new run."""
        body = {"experiment_id": experiment_id, "run_name": name, "start_time": start_time, "tags": _pairs(tags)}
        return Run.of(self.call("POST", "runs/create", body)["run"])

    def get_run(self, run_id: str) -> Run:
        """A run."""
        return Run.of(self.call("GET", "runs/get", {"run_id": run_id})["run"])

    def end_run(self, run_id: str, status: RunStatus, end_time: int) -> None:
        """Set how and when a run ended."""
        self.call("POST", "runs/update", {"run_id": run_id, "status": status, "end_time": end_time})

    def delete_run(self, run_id: str) -> None:
        """Delete a run; one that is gone already is fine."""
        try:
            self.call("POST", "runs/delete", {"run_id": run_id})
        except MlflowError as error:
            if error.code != MISSING:
                raise

    def log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Log values. MLflow keeps a value once, however often the same one is sent."""
        for start in range(0, len(metrics), MAX_METRICS):
            batch = [
                {"key": item.key, "value": _number(item.value), "timestamp": item.timestamp, "step": item.step}
                for item in metrics[start : start + MAX_METRICS]
            ]
            self.call("POST", "runs/log-batch", {"run_id": run_id, "metrics": batch})

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log parameters; long values are cut to what MLflow takes."""
        for batch in _batches(_pairs(params, MAX_PARAM_CHARACTERS), MAX_PARAMS):
            self.call("POST", "runs/log-batch", {"run_id": run_id, "params": batch})

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; long values are cut to what MLflow takes."""
        for batch in _batches(_pairs(tags), MAX_TAGS):
            self.call("POST", "runs/log-batch", {"run_id": run_id, "tags": batch})

    # Registered models

    def create_registered_model(self, name: str) -> None:
        """Make a registered model; one that is there already is fine."""
        try:
            self.call("POST", "registered-models/create", {"name": name})
        except MlflowError as error:
            if error.code != TAKEN:
                raise

    def find_model_version(self, name: str, tag: str, value: str) -> str | None:
        """The number of the model version that has this tag."""
        query = {"filter": f"name = '{_quoted(name)}' and tags.`{tag}` = '{_quoted(value)}'", "max_results": "1"}
        found = self.call("GET", "model-versions/search", query).get("model_versions", [])
        return str(found[0]["version"]) if found else None

    def create_model_version(
        self, name: str, source: str, run_id: str, *, description: str, tags: Mapping[str, str]
    ) -> str:
        """A new version of a registered model; its number."""
        body = {
            "name": name,
            "source": source,
            "run_id": run_id,
            "description": description[:MAX_TAG_CHARACTERS],
            "tags": _pairs(tags),
        }
        return str(self.call("POST", "model-versions/create", body)["model_version"]["version"])

    def delete_model_version(self, name: str, number: str) -> None:
        """Delete a version, and the registered model with its last one."""
        try:
            self.call("DELETE", "model-versions/delete", {"name": name, "version": number})
            left = self.call(
                "GET", "model-versions/search", {"filter": f"name = '{_quoted(name)}'", "max_results": "1"}
            )
            if not left.get("model_versions"):
                self.call("DELETE", "registered-models/delete", {"name": name})
        except MlflowError as error:
            if error.code != MISSING:
                raise


def _pairs(values: Mapping[str, str], limit: int = MAX_TAG_CHARACTERS) -> list[dict[str, str]]:
    return [{"key": key, "value": value[:limit]} for key, value in values.items()]


def _batches(items: list[dict[str, str]], size: int) -> Iterable[list[dict[str, str]]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _number(value: float) -> float | str:
    """JSON has no word for these; protocol buffers do."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _quoted(text: str) -> str:
    return text.replace("'", "\\'")
