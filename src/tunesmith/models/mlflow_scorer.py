"""MLflow's own scorer in a process of its own, which shows that a model folder is complete.

Importing MLflow and transformers takes most of its time, and one core. ``MlflowScorer`` is started before there is a
folder, so that it imports while the folder is made. A process that has imported transformers, has read no model and
has computed nothing yet may fork it, which saves the larger part of the imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict

from tunesmith.errors import Failure, InvalidModel
from tunesmith.models.package import MLMODEL_FILE

_MODULE = "tunesmith.models.mlflow_check"
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


class MlflowCheck(BaseModel):
    """What MLflow's own scorer said in a process of its own."""

    model_config = ConfigDict(frozen=True)

    question: str
    answer: str
    prompt_tokens: int
    completion_tokens: int
    probes: int
    """How many probe conversations gave the ids of the chat contract."""
    seconds: float
    """From the folder's name to the answer, without the imports."""


class MlflowScorer:
    """A scorer that waits for its folder. A context: leaving it ends the process, whether it was asked or not.

    ``fork``: see the module's docstring. Threads of this process would be lost in it, so there must be none.
    """

    def __init__(self, *, fork: bool = False) -> None:
        self._process: _Forked | subprocess.Popen[str]
        if fork:
            self._process = _Forked()
        else:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                env={**os.environ, **_ENVIRONMENT},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def check(self, path: Path, *, max_tokens: int = 8, timeout: float = 600.0) -> MlflowCheck:
        """Open the MLflow model folder ``path`` offline and let MLflow's scorer answer one question.

        Loads it as a pipeline through ``mlflow.pyfunc``, compares the ids of the chat contract's probes, and calls
        ``predict``. ``timeout`` is in seconds. To be called once.

        Raises:
            InvalidModel: the folder is no MLflow model.
            Failure: any of it failed; the message has what the process said last.
        """
        if not (path / MLMODEL_FILE).is_file():
            raise InvalidModel("this folder is no MLflow model: it has no MLmodel", target=str(path))
        try:
            output, said = self._process.communicate(f"{path.absolute()}\n{max_tokens}\n", timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"MLflow's scorer did not answer in {timeout:.0f} s", target=str(path)) from error
        if self._process.returncode != 0:
            lines = [line for line in said.strip().splitlines() if line.strip()]
            raise Failure(
                "MLflow cannot use this model folder: "
                + (lines[-1] if lines else f"exit code {self._process.returncode}"),
                target=str(path),
                way_out=f"see the whole message: {sys.executable} -m {_MODULE} {path}",
            )
        return MlflowCheck.model_validate_json(output.strip().splitlines()[-1])


class _Forked:
    """The scorer as a fork of this process, with the part of ``subprocess.Popen`` that is used of it."""

    def __init__(self) -> None:
        self._output, self._said = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        reading, self._input = os.pipe()
        handles = (reading, self._input, self._output.fileno(), self._said.fileno())
        self._process = multiprocessing.get_context("fork").Process(target=_be_scorer, args=handles)
        self._process.start()
        os.close(reading)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, text: str | None = None, timeout: float = 60.0) -> tuple[str, str]:
        if self._input >= 0:
            with suppress(BrokenPipeError):
                os.write(self._input, (text or "").encode())
            os.close(self._input)
            self._input = -1
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(_MODULE, timeout)
        told = []
        for file in (self._output, self._said):
            if not file.closed:
                with file:
                    file.seek(0)
                    told.append(file.read().decode("utf-8", "replace"))
        return (told[0], told[1]) if told else ("", "")


def _be_scorer(reading: int, writing: int, output: int, said: int) -> None:
    os.close(writing)
    for handle, number in ((reading, 0), (output, 1), (said, 2)):
        os.dup2(handle, number)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(_ENVIRONMENT)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)

    from tunesmith.models import mlflow_check

    sys.exit(mlflow_check.main([]))
