"""MLflow's own scorer in a process of its own, which shows that a model folder is complete.

Importing MLflow and transformers takes most of its time, and one core. ``MlflowScorer`` is started before there is a
folder, so that it imports while the folder is made.
"""

from __future__ import annotations

import os
import subprocess
import sys
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
    """A scorer that waits for its folder. A context: leaving it ends the process, whether it was asked or not."""

    def __init__(self) -> None:
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
