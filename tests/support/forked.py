"""Processes that compute, each begun as the runner begins its steps: where it can be, by a fork after the imports."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tunesmith.pipelines.warm import Nursery, Process

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("torch", "transformers.models.llama.modeling_llama", "peft")


class Forks:
    """Starts modules of Python as processes, one after the other."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self._environment = _environment()

    def start(
        self, module: str, *arguments: object, log: Path, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start ``python -m module arguments`` in a session of its own; what it prints goes to ``log``.

        The one before must have ended.
        """
        return self._nursery.start(
            shlex.join(["python", "-m", module, *map(str, arguments)]),
            preload=True,
            cwd=ROOT,
            environment={**self._environment, **(environment or {})},
            log=log,
            record=lambda identity: None,
            interrupted=lambda: False,
        )


def _environment() -> dict[str, str]:
    """This process's as it is now: what is forked must have the variables that the imports were done with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


@contextmanager
def forks(folder: Path) -> Iterator[Forks]:
    """They end with the ``with``."""
    nursery = Nursery(folder, MODULES)
    try:
        yield Forks(nursery)
    finally:
        nursery.close()
