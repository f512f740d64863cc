"""Step ``chat_completion_model_import``: the base model becomes a package. The only step that may use the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.components.steps.runtime import Step, fresh, run
from tunesmith.errors import UserError
from tunesmith.storage.links import link_tree
from tunesmith.storage.paths import WorkspacePaths


@dataclass(frozen=True)
class Arguments:
    """Exactly one of the three model inputs, and where the package goes."""

    output_dir: Path
    huggingface_id: str | None = None
    pytorch_model_path: Path | None = None
    mlflow_model_path: Path | None = None
    trust_remote_code: bool = False
    validation_output: Path | None = None


def main(arguments: Arguments, step: Step) -> None:
    """Find the package, import it where it is not there yet, and link it into the output."""
    from tunesmith.models import import_model

    paths = WorkspacePaths(step.home)
    output = fresh(arguments.output_dir)
    if arguments.huggingface_id is not None:
        source, name = f"hf://{arguments.huggingface_id}", arguments.huggingface_id.rsplit("/", 1)[-1]
        import_model(source, output, downloads=paths.downloads, name=name, reporter=step.reporter)
        return
    path = arguments.mlflow_model_path or arguments.pytorch_model_path
    if path is None:
        raise UserError("no base model was given", target="mlflow_model_path")
    known = _registered(step, "mlflow_model_path" if arguments.mlflow_model_path else "pytorch_model_path")
    if known is not None:
        package = import_registered(known, paths, step)
        step.reporter.log(f"base model {known['name']} {known['version']}: {package}")
        link_tree(package, output)
        return
    import_model(str(path), output, downloads=paths.downloads, name=path.name, reporter=step.reporter)


def import_registered(model: dict[str, Any], paths: WorkspacePaths, step: Step, *, path: Path | None = None) -> Path:
    """The folder with the package of a registry's model; its weights are fetched when they are not there."""
    from tunesmith.models import import_model
    from tunesmith.models.catalogue import entries

    package = path or paths.package(model["registry"], model["name"], model["version"])
    if package.exists():
        return package
    source = model.get("source")
    if not source:
        raise UserError(
            f"nobody knows where the weights of {model['name']} come from",
            target=model["name"],
            way_out=f"tunesmith models import {model['name']} --from SOURCE",
        )
    entry = next(
        (e for e in entries() if (e.name, e.version, e.source) == (model["name"], model["version"], source)), None
    )
    import_model(
        source,
        package,
        downloads=paths.downloads,
        name=model["name"],
        reporter=step.reporter,
        expected_sha256=entry.expected_sha256 if entry else None,
        license=entry.license if entry else None,
    )
    return package


def _registered(step: Step, name: str) -> dict[str, Any] | None:
    """The registry's model behind an input, if it is one."""
    model = step.inputs().get("inputs", {}).get(name, {}).get("model")
    return dict(model) if isinstance(model, dict) else None


if __name__ == "__main__":
    run(Arguments, main)
