"""Runs a script cell by cell in the Python that it is started with, and measures where each cell's time goes.

Started by ``bench_azure.py`` through ``tunesmith azure run``; needs nothing but what the script needs.
"""

# mypy: ignore-errors

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path


class Clock:
    """Notes, over all threads, when something went on: begin and end in Unix seconds."""

    def __init__(self) -> None:
        self.times: dict[str, list[tuple[float, float]]] = {"waiting": [], "answers": []}
        self.asked: list[str] = []
        """Method, host and path of each of the answers."""
        self._lock = threading.Lock()

    def around(self, name: str, function):
        """``function``, with its times noted under ``name``."""

        def timed(*arguments, **named):
            start = time.time()
            try:
                return function(*arguments, **named)
            finally:
                with self._lock:
                    self.times[name].append((start, time.time()))
                    if name == "answers":
                        request = arguments[1]
                        self.asked.append(f"{request.method} {request.url.partition('?')[0].partition('//')[2]}")

        return timed


def cells(script: str):
    """Title and text of every code cell; the title is the heading of the text before it."""
    title = ""
    for part in re.split(r"(?m)^# %%", script)[1:]:
        first, _, text = part.partition("\n")
        if "[markdown]" in first:
            title = re.sub(r"^[# ]*", "", text.strip().splitlines()[0])
        else:
            yield title, text


def main() -> None:
    """Run the script named first, write the measures to the file named second."""
    script, target = Path(sys.argv[1]), Path(sys.argv[2])
    clock = Clock()
    time.sleep = clock.around("waiting", time.sleep)  # before anything keeps the original
    import requests.adapters

    requests.adapters.HTTPAdapter.send = clock.around("answers", requests.adapters.HTTPAdapter.send)
    space = {"__name__": "__main__", "__file__": str(script)}
    lines = []
    for title, text in cells(script.read_text("utf-8")):
        before, start = {name: len(times) for name, times in clock.times.items()}, time.time()
        exec(compile(text, f"{script}: {title}", "exec"), space)
        line = {"title": title, "began": start, "ended": time.time()}
        line["asked"] = clock.asked[before["answers"] :]
        lines.append({**line, **{name: times[before[name] :] for name, times in clock.times.items()}})
    target.write_text(json.dumps(lines))


if __name__ == "__main__":
    main()
