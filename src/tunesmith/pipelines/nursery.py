"""``python -m tunesmith.pipelines.nursery MODULE…``: imports what steps need, once, and becomes each of them by a fork.

Importing torch and transformers takes seconds and every step that computes needs them. The runner of a job starts one
nursery (``warm.Nursery``) and asks it for one process after the other. It reads orders from its input, a JSON line
each, and answers ``{"pid": …}`` when the process is there and ``{"code": …}`` when it has ended. It computes nothing
itself, so no thread of theirs is there to be lost in a fork. It ends with its input.

A process that comes from here is like one that was started: it leads a session, has the order's environment, folder and
log, an empty input, and no handle of the nursery. It begins its work when the runner has put its pid on disk.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
from contextlib import suppress
from typing import Any

from tunesmith.starting import starting

PRELOADED_VARIABLE = "TUNESMITH_PRELOADED"
"""Set to 1 in a process that came from a nursery."""
GO = b"go\n"
"""What the runner sends a process that may begin."""
NOT_BEGUN = 125
"""Exit code of a process whose runner went away before it could begin."""


def main(modules: list[str]) -> int:
    """Import, then give out processes until the input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what imports print is no answer
    with starting():
        for module in modules:
            try:
                importlib.import_module(module)
            except Exception as error:  # the step says it better, if it needs the module at all
                print(f"{module} was not imported ahead: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        gc.collect()  # what is left is shared with the children; there it is not looked at, which would copy it
    order = _serve(answers)
    if order is not None:
        _become(order)
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    return 0


def _serve(answers: int) -> dict[str, Any] | None:
    """In every child, its order; in the nursery ``None``, when no more will come."""
    while True:
        line = _line()
        if not line:
            return None
        order: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            _answer(answers, {"pid": os.getpid()})
            os.close(answers)
            return order
        _, status = os.waitpid(pid, 0)
        _answer(answers, {"code": os.waitstatus_to_exitcode(status)})


def _become(order: dict[str, Any]) -> None:
    if _line() != GO:
        os._exit(NOT_BEGUN)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for handle, number in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(handle, number)
    os.close(nothing)
    os.close(log)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    os.environ[PRELOADED_VARIABLE] = "1"
    sys.path.insert(0, order["cwd"])  # as ``python -m`` has it
    sys.argv = [order["module"], *order["arguments"]]


def _line() -> bytes:
    """A line of the input, read no further than its end: the rest may be a child's. Nothing at the end."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 65536)  # there is never more than one line on its way
        if not piece:
            return b""
        line += piece
    return line


def _answer(handle: int, body: dict[str, int]) -> None:
    with suppress(BrokenPipeError):  # the runner is gone; the next one finds the process by its pid
        os.write(handle, json.dumps(body).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
