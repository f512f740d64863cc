"""What every step does around its work: arguments from a dataclass, events, errors, SIGTERM, exit codes.

@dataclass(frozen=True)
class Arguments:
    model_path: Path
    max_seq_length: int = -1

def main(arguments: Arguments, step: Step) -> None: ...

if __name__ == "__main__":
    run(Arguments, main)
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tunesmith.errors import Failure, TunesmithError, UserError
from tunesmith.pipelines.nursery import PRELOADED_VARIABLE
from tunesmith.reporting import EVENTS_VARIABLE, FileReporter, NullReporter, Reporter

A = TypeVar("A")

STOPPED = 128 + signal.SIGTERM
"""Exit code of a step that stopped because it was told to."""


class Step:
    """A step at work: where it reports, what the runner told it, whether it should stop."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        events = environment.get(EVENTS_VARIABLE)
        self.reporter: Reporter = FileReporter(Path(events)) if events else NullReporter()
        self.folder = _path(environment, "TUNESMITH_STEP_DIR")
        self.job_folder = _path(environment, "TUNESMITH_JOB_DIR")
        self._checkpoints = _path(environment, "TUNESMITH_CHECKPOINTS")
        self._home = _path(environment, "TUNESMITH_HOME")
        self.preloaded = environment.get(PRELOADED_VARIABLE) == "1"
        """Whether this process is the fork of one that imported for it, and computed nothing."""
        self._cooperative = False
        self._stopping = False

    @property
    def home(self) -> Path:
        """The workspace's folder."""
        return _needed(self._home, "TUNESMITH_HOME")

    @property
    def checkpoints(self) -> Path:
        """A folder that survives a restart of the step."""
        return _needed(self._checkpoints, "TUNESMITH_CHECKPOINTS")

    def inputs(self) -> dict[str, Any]:
        """``inputs.json``: what the runner knows about the inputs (references, hashes)."""
        path = self.folder / "inputs.json" if self.folder else None
        if path is None or not path.exists():
            return {}
        body = json.loads(path.read_text("utf-8"))
        return body if isinstance(body, dict) else {}

    def stop_cooperatively(self) -> Callable[[], bool]:
        """From now on SIGTERM only sets a flag; the returned function reads it."""
        self._cooperative = True
        return lambda: self._stopping

    def handle_sigterm(self, *_: object) -> None:
        """Signal handler."""
        self._stopping = True
        if not self._cooperative:
            sys.exit(STOPPED)

    def error(self, error: TunesmithError) -> None:
        """Put the error that ends the step into its events."""
        if isinstance(self.reporter, FileReporter):
            self.reporter.error(error.to_dict())


def run(kind: type[A], work: Callable[[A, Step], None], arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments, do the work, and end the process: 0 done, 2 a user's mistake, 1 a failure, 143 stopped."""
    step = Step()
    os.environ.pop(PRELOADED_VARIABLE, None)  # what this process starts did not come from a nursery
    signal.signal(signal.SIGTERM, step.handle_sigterm)
    try:
        work(parse_arguments(kind, arguments), step)
    except TunesmithError as error:
        step.error(error)
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except MemoryError:
        from tunesmith.errors import OutOfMemory

        out = OutOfMemory("the memory of this machine ran out", way_out="close other programs, or take a smaller model")
        step.error(out)
        traceback.print_exc()
        sys.exit(1)
    except Exception as error:
        step.error(Failure(f"{type(error).__name__}: {error}", way_out="the log has the traceback"))
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def parse_arguments(kind: type[A], arguments: Sequence[str] | None = None) -> A:
    """An instance of the dataclass ``kind`` from ``--name value`` pairs.

    Raises:
        UserError: an unknown, missing or malformed argument.
    """
    parser = _Parser(prog=kind.__module__, add_help=True, description=kind.__doc__, allow_abbrev=False)
    hints = typing.get_type_hints(kind)
    for field in fields(kind):  # type: ignore[arg-type]
        required = field.default is MISSING and field.default_factory is MISSING
        default = None if required or field.default is MISSING else field.default
        parser.add_argument(f"--{field.name}", type=_converter(hints[field.name]), required=required, default=default)
    return kind(**vars(parser.parse_args(arguments)))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message, target=self.prog, way_out="see --help")


def _converter(hint: Any) -> Callable[[str], Any]:
    options = [option for option in typing.get_args(hint) if option is not types.NoneType] or [hint]
    kind = options[0]
    if kind is bool:
        return _boolean
    return kind if callable(kind) else str


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")


def fresh(path: Path) -> Path:
    """A path where nothing is: the runner made an empty folder for the output, and the craft makes its own."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.rmdir()
    return path


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    return Path(environment[name]) if environment.get(name) else None


def _needed(path: Path | None, name: str) -> Path:
    if path is None:
        raise UserError(
            f"the environment variable {name} is not set", target=name, way_out="run the step as part of a job"
        )
    return path
