"""An engine behind standard input and output: ``python -m tunesmith.generate.piped PACKAGE``.

For work that needs a model and no server. The first line out is ``{"ready": description}`` or ``{"error": …}``. Then
every line in is ``{"id", "request"}`` (a ``GenerateRequest``) and is answered, whole, by a line ``{"id", "result"}`` or
``{"id", "error"}``, in the order in which answers end. When its input ends the process ends, so it never outlives the
one that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from typing import Any

from tunesmith.errors import Failure, TunesmithError


def main(arguments: list[str] | None = None) -> int:
    """Open the engine and answer; the exit status."""
    parser = argparse.ArgumentParser(prog="tunesmith.generate.piped", description=__doc__)
    parser.add_argument("package", help="folder of the model package or MLflow model")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args(arguments)
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(body: dict[str, Any]) -> None:
        answers.write(json.dumps(body, ensure_ascii=False, separators=(",", ":")) + "\n")

    from tunesmith.generate import open_engine

    try:
        engine = open_engine(given.package, engine=given.engine, precision=given.precision)
    except TunesmithError as error:
        tell(error.to_dict())
        return 1
    tell({"ready": engine.description.to_dict()})
    try:
        asyncio.run(_serve(engine, tell))
    finally:
        engine.close()
    return 0


async def _serve(engine: Any, tell: Any) -> None:
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = asyncio.create_task(_answer(engine, tell, json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)
    for task in list(running):  # nobody waits for these any more
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def _answer(engine: Any, tell: Any, asked: dict[str, Any]) -> None:
    from tunesmith.generate.types import GenerateRequest, collect

    try:
        result = await collect(engine.generate(GenerateRequest.from_dict(asked["request"])))
        tell({"id": asked["id"], "result": result.to_dict()})
    except TunesmithError as error:
        tell({"id": asked["id"], **error.to_dict()})
    except Exception as error:
        failure = Failure(f"the engine failed: {type(error).__name__}: {error}")
        tell({"id": asked["id"], **failure.to_dict()})


if __name__ == "__main__":
    sys.exit(main())
