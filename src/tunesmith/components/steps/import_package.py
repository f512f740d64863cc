"""Step ``model_import``: fetch the weights of a registry's model into the workspace's packages."""

from __future__ import annotations

from collections.abc import Callable
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
    model = {key: getattr(arguments, key) for key in ("registry", "name", "version", "source")}
    if not place.exists() and _old(place).exists():
        _old(place).rename(place)  # an earlier attempt was cut between the two renames
    if arguments.force and place.exists():
        replace(place, lambda aside: import_registered(model, paths, step, path=aside), step)
    else:
        import_registered(model, paths, step, path=place)
    package = ModelPackage.open(place)
    atomic.write_text(arguments.report, package.manifest.model_dump_json(indent=1) + "\n")
    step.reporter.log(f"{arguments.name} {arguments.version}: {package.size_bytes / 1e6:,.0f} MB at {package.path}")


def replace(place: Path, fetch: Callable[[Path], object], step: Step) -> None:
    """Put what ``fetch`` makes aside in the place of what is there, which stays until then."""
    aside, old = place.with_name(f".{place.name}.new"), _old(place)
    atomic.remove(old)
    atomic.remove(aside)  # what an earlier attempt left may come from another source
    try:
        fetch(aside)
        place.rename(old)
        aside.rename(place)
    except BaseException:
        if not place.exists() and old.exists():
            old.rename(place)
        atomic.remove(aside)
        raise
    freed = atomic.remove(old)
    step.reporter.log(f"replaced the weights that were there: {freed / 1e6:,.0f} MB")


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


if __name__ == "__main__":
    run(Arguments, main)
