"""``Workspace``: the way in to everything, from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from tunesmith.client.azure import Azure
from tunesmith.client.components import Components, Environments
from tunesmith.client.computes import Computes
from tunesmith.client.data import Data
from tunesmith.client.deployments import Deployments
from tunesmith.client.discovery import find_server, read_token, start_server
from tunesmith.client.endpoints import Endpoints
from tunesmith.client.files import Files
from tunesmith.client.finetune import finetune_job
from tunesmith.client.jobs import Jobs
from tunesmith.client.models import Models
from tunesmith.client.transport import Timeouts, Transport
from tunesmith.client.views import Doctor, Info, Job
from tunesmith.errors import NotAuthenticated, Unavailable
from tunesmith.home import find_home
from tunesmith.records.assets import AssetVersion
from tunesmith.records.workspace import LoginLink

TOKEN_VARIABLE = "TUNESMITH_TOKEN"


class Workspace:
    """A workspace: its models, data, computes, components, jobs, endpoints and deployments.

    ``Workspace()`` finds the running server of the workspace folder, or starts one that goes on after this process. A
    server elsewhere is reached by its URL and token.

    Args:
        path: The workspace folder; else ``TUNESMITH_HOME``, else ``~/.tunesmith``.
        url: Of a server elsewhere, instead of a folder.
        token: Of the server at ``url``; else ``TUNESMITH_TOKEN``.
        start: Start a server where none runs.
        verify: How to check the certificate of an ``https`` URL: ``True`` for the system's authorities, or the path of
            a PEM file.
        timeouts: In seconds.

    Raises:
        Unavailable: no server runs and ``start`` is off, or it could not start.
        Unreachable: nothing answers at ``url``.
        NotAuthenticated: the token is wrong or missing.

    Examples:
        >>> from tunesmith import Workspace
        >>> ws = Workspace(path)
        >>> ws.models.get("SmolLM2-135M-Instruct").license
        'apache-2.0'
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        start: bool = True,
        verify: bool | str = True,
        timeouts: Timeouts | None = None,
    ) -> None:
        if url is not None:
            self.home: Path | None = None
            token = token or os.environ.get(TOKEN_VARIABLE)
            if not token:
                raise NotAuthenticated(
                    f"the server at {url} needs its token",
                    target="token",
                    way_out=f"give token=…, or set {TOKEN_VARIABLE}; it is in the file `token` of the workspace folder",
                )
        else:
            self.home = find_home(path)
            server = find_server(self.home)
            if server is None and not start:
                raise Unavailable(
                    f"no server runs for the workspace {self.home}", way_out="start one with `tunesmith up -d`"
                )
            server = server or start_server(self.home)
            url, token = server.url, read_token(self.home)
            verify = server.certificate or verify
        self._transport = Transport(url, token, verify=verify, pinned=self.home is not None, timeouts=timeouts)
        self._files = Files(self._transport)
        self.models = Models(self._transport, self._files)
        self.data = Data(self._transport, self._files)
        self.components = Components(self._transport, self._files)
        self.environments = Environments(self._transport, self._files)
        self.computes = Computes(self._transport)
        self.jobs = Jobs(self._transport, self._files)
        self.endpoints = Endpoints(self._transport)
        self.deployments = Deployments(self._transport)
        self.azure = Azure(self._transport, self.home)

    def __repr__(self) -> str:
        return f"Workspace({self._transport.url!r})"

    def __str__(self) -> str:
        return str(self.status())

    def __rich__(self) -> Any:
        return self.status().__rich__()

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the server is reached."""
        return self._transport.url

    def close(self) -> None:
        """Close this client's connections. The server, its jobs and its endpoints go on."""
        self._transport.close()

    def finetune(
        self,
        model: str | AssetVersion,
        train: str | Path | AssetVersion,
        validation: str | Path | AssetVersion | None = None,
        test: str | Path | AssetVersion | None = None,
        name: str | None = None,
        *,
        display_name: str | None = None,
        experiment_name: str | None = None,
        compute: str | None = None,
        tags: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Job:
        """Start a fine-tuning job: the system registry's ``chat_completion_pipeline`` over a model and conversations.

        Args:
            model: Name, reference or version of the base model; or the path of a local model folder.
            train: Conversations to train on: a local file, a data asset or its reference.
            validation: Conversations to watch the loss on.
            test: Conversations to compare base and tuned model on.
            name: Of the job; made up when left out.
            display_name: How it is shown.
            experiment_name: Of MLflow.
            compute: Where it runs.
            tags: Free pairs.
            settings: ``force_rerun``, ``continue_on_step_failure``.
            parameters: Of the pipeline, by Azure's names: ``num_train_epochs``, ``learning_rate``, ``apply_lora``, …

        Raises:
            ValidationFailed: every fault in one answer; an unknown parameter with the name that was meant.

        Examples:
            >>> ws.finetune(model, train, learning_rat=1e-4)
            Traceback (most recent call last):
            ...
            tunesmith.errors.ValidationFailed: ...
        """
        return self.jobs.submit(
            self._finetune(
                model, train, validation, test, name, display_name, experiment_name, compute, tags, settings, parameters
            )
        )

    def plan_finetune(
        self,
        model: str | AssetVersion,
        train: str | Path | AssetVersion,
        validation: str | Path | AssetVersion | None = None,
        test: str | Path | AssetVersion | None = None,
        name: str | None = None,
        *,
        display_name: str | None = None,
        experiment_name: str | None = None,
        compute: str | None = None,
        tags: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Job:
        """Check everything that ``finetune`` checks, with the same arguments, and start nothing.

        Returns the job as it would run.

        Examples:
            >>> job = ws.plan_finetune(model, train, max_steps=1, name="first-tune")
            >>> job.display_name, job.status.value
            ('first-tune', 'NotStarted')
        """
        return self.jobs.validate(
            self._finetune(
                model, train, validation, test, name, display_name, experiment_name, compute, tags, settings, parameters
            )
        )

    def status(self) -> Info:
        """The workspace and its server."""
        return Info.model_validate(self._transport.request("GET", "/api/v1/workspace"))

    def doctor(self) -> Doctor:
        """What the server's machine has, which optional parts are there, and what is missing."""
        return Doctor.model_validate(self._transport.request("GET", "/api/v1/doctor"))

    def login_link(self, to: str = "/") -> str:
        """A link that opens the server's pages in a browser: for one use, within ten minutes.

        Args:
            to: The page to go on to: ``/`` for what goes on, ``/mlflow/`` for MLflow.

        Examples:
            >>> ws.login_link("/mlflow/").startswith(f"{ws.url}/login?code=")
            True
        """
        link = LoginLink.model_validate(self._transport.request("POST", "/api/v1/login-links"))
        return f"{link.url}&to={quote(to)}"

    def shutdown(self, *, everything: bool = False) -> None:
        """Stop the server. Jobs and endpoints go on and are found again by the next one.

        Args:
            everything: Also cancel the jobs that run, and stop the instances of the deployments.
        """
        self._transport.request("POST", "/api/v1/shutdown", body={"everything": everything}, slow=True)

    def _finetune(
        self,
        model: str | AssetVersion,
        train: str | Path | AssetVersion,
        validation: str | Path | AssetVersion | None,
        test: str | Path | AssetVersion | None,
        name: str | None,
        display_name: str | None,
        experiment_name: str | None,
        compute: str | None,
        tags: Mapping[str, str] | None,
        settings: Mapping[str, Any] | None,
        parameters: Mapping[str, Any],
    ) -> dict[str, Any]:
        resolved = model if isinstance(model, AssetVersion) else self._model(model)
        fields = {
            "name": name,
            "display_name": display_name or name,
            "experiment_name": experiment_name,
            "compute": compute,
            "tags": None if tags is None else dict(tags),
            "settings": None if settings is None else dict(settings),
        }
        return finetune_job(
            resolved, train=train, validation=validation, test=test, parameters=parameters, fields=fields
        )

    def _model(self, text: str) -> AssetVersion | str:
        """The model version that ``text`` means, or the absolute path of the folder it names."""
        local = Path(text).expanduser()
        if local.is_dir() and ("/" in text or os.sep in text):
            return str(local.absolute())
        if text.startswith("azureml://jobs/"):
            return text
        return self.models.get(text)
