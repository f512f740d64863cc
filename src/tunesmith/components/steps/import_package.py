"""Step ``model_import``: fetch the weights of a registry's model into the workspace's packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.components.steps.model_import import import_registered
from tunesmith.components.steps.runtime import Step, run
from tunesmith.storage import atomic
from tunesmith.storage.paths import WorkspacePaths


@dataclass(frozen=True)
class Arguments:
    """Which model, and from where."""

    name: str
    version: str
    source: str
    report: Path
    registry: str = "azureml"
    force: bool = False


def main(arguments: Arguments, step: Step) -> None:
    """Import, and write the package's manifest as the report."""
    from tunesmith.models import ModelPackage

    paths = WorkspacePaths(step.home)
    place = paths.package(arguments.registry, arguments.name, arguments.version)
    if arguments.force and place.exists():
        freed = atomic.remove(place)
        step.reporter.log(f"removed the weights that were there: {freed / 1e6:,.0f} MB")
    model = {key: getattr(arguments, key) for key in ("registry", "name", "version", "source")}
    package = ModelPackage.open(import_registered(model, paths, step, path=place))
    atomic.write_text(arguments.report, package.manifest.model_dump_json(indent=1) + "\n")
    step.reporter.log(f"{arguments.name} {arguments.version}: {package.size_bytes / 1e6:,.0f} MB at {package.path}")


if __name__ == "__main__":
    run(Arguments, main)
