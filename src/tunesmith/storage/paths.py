"""Every path of the workspace folder, in one place.

Names that come from outside are checked before they become parts of a path, so no path leaves the folder.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunesmith.storage import names


@dataclass(frozen=True, slots=True)
class WorkspacePaths:
    """The paths below ``home``. Makes nothing; ``make`` does."""

    home: Path

    @property
    def workspace_file(self) -> Path:
        """``workspace.json``: id, name, format version, created."""
        return self.home / "workspace.json"

    @property
    def settings_file(self) -> Path:
        """``settings.toml``."""
        return self.home / "settings.toml"

    @property
    def server_file(self) -> Path:
        """``server.json``: url, pid, process start time, while a server runs."""
        return self.home / "server.json"

    @property
    def lock_file(self) -> Path:
        """``server.lock``: held by the running server."""
        return self.home / "server.lock"

    @property
    def token_file(self) -> Path:
        """``token``: the bearer token of the native API, 0600."""
        return self.home / "token"

    @property
    def key_file(self) -> Path:
        """``secret.key``: what encrypts the endpoints' keys, 0600."""
        return self.home / "secret.key"

    @property
    def database_file(self) -> Path:
        """``tunesmith.db``."""
        return self.home / "tunesmith.db"

    @property
    def artifacts(self) -> Path:
        """The artifact store, when it is a folder."""
        return self.home / "artifacts"

    @property
    def uploads(self) -> Path:
        """Files that clients sent."""
        return self.artifacts / "uploads"

    @property
    def packages(self) -> Path:
        """Imported base models."""
        return self.home / "packages"

    @property
    def jobs(self) -> Path:
        """The folders of the jobs."""
        return self.home / "jobs"

    @property
    def step_cache(self) -> Path:
        """Which step's outputs answer to a content key."""
        return self.home / "cache" / "steps"

    @property
    def hash_cache(self) -> Path:
        """Hashes of large files, by path, size and time."""
        return self.home / "cache" / "hashes"

    @property
    def artifact_cache(self) -> Path:
        """Local copies of what lies in a remote artifact store."""
        return self.home / "cache" / "artifacts"

    @property
    def engine_exports(self) -> Path:
        """What engines made of model packages, by content."""
        return self.home / "cache" / "exports"

    @property
    def downloads(self) -> Path:
        """Wheels and hub files, by checksum."""
        return self.home / "downloads"

    @property
    def endpoints(self) -> Path:
        """The folders of the endpoints."""
        return self.home / "endpoints"

    @property
    def azure(self) -> Path:
        """What the Azure face keeps: its certificate authority, its ports, what wrappers of processes need."""
        return self.home / "azure"

    @property
    def collected(self) -> Path:
        """Conversations that deployments' data collectors kept."""
        return self.home / "collected"

    @property
    def mlflow(self) -> Path:
        """MLflow's own store."""
        return self.home / "mlflow"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's database."""
        return self.mlflow / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.mlflow / "artifacts"

    @property
    def logs(self) -> Path:
        """Logs of the server and its children."""
        return self.home / "logs"

    @property
    def server_log(self) -> Path:
        """The server's log."""
        return self.logs / "server.log"

    @property
    def request_log(self) -> Path:
        """One line for each request to an endpoint."""
        return self.logs / "requests.jsonl"

    @property
    def mlflow_log(self) -> Path:
        """The tracking server's log."""
        return self.logs / "mlflow.log"

    def job(self, job: str) -> Path:
        """The folder of a job: job.json, graph.json, events.jsonl, steps/…"""
        return self.jobs / names.JOB_NAME.check(job, "job")

    def job_artifacts(self, job: str) -> Path:
        """The outputs of a job, in the artifact store."""
        return self.artifacts / "jobs" / names.JOB_NAME.check(job, "job")

    def job_output(self, job: str, output: str) -> Path:
        """One output of a job."""
        return self.job_artifacts(job) / names.PORT_NAME.check(output, "output")

    def package(self, registry: str, name: str, version: str) -> Path:
        """The package of an imported base model."""
        return (
            self.packages
            / names.REGISTRY_NAME.check(registry, "registry")
            / names.ASSET_NAME.check(name, "name")
            / names.ASSET_VERSION.check(version, "version")
        )

    def cached_step(self, key: str) -> Path:
        """The entry of a content key."""
        return self.step_cache / f"{names.PLAIN_NAME.check(key, 'key')}.json"

    def endpoint(self, endpoint: str) -> Path:
        """The folder of an endpoint."""
        return self.endpoints / names.ENDPOINT_NAME.check(endpoint, "endpoint")

    def deployment(self, endpoint: str, deployment: str) -> Path:
        """The folder of a deployment."""
        return self.endpoint(endpoint) / names.DEPLOYMENT_NAME.check(deployment, "deployment")

    def instance(self, endpoint: str, deployment: str, instance: str) -> Path:
        """The folder of an instance: config.json, instance.json, log.txt."""
        return self.deployment(endpoint, deployment) / names.PLAIN_NAME.check(instance, "instance")

    def make(self) -> None:
        """Make the folders, readable by the owner alone."""
        new = not self.workspace_file.exists()
        for folder in (
            self.home,
            self.home / "cache",
            self.artifacts,
            self.uploads,
            self.packages,
            self.jobs,
            self.step_cache,
            self.hash_cache,
            self.downloads,
            self.endpoints,
            self.mlflow,
            self.mlflow_artifacts,
            self.logs,
        ):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if new:  # a folder that was there before has whatever mode its maker gave it
            with suppress(PermissionError):
                self.home.chmod(0o700)
