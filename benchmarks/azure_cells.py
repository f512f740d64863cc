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
from collections import Counter
from pathlib import Path


class Clock:
    """Adds up, over all threads, what passes while something goes on."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def around(self, name: str, function):
        """``function``, with its time added to ``name``."""

        def timed(*arguments, **named):
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                with self._lock:
                    self.seconds[name] += time.perf_counter() - start
                    self.counts[name] += 1

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
        seconds, counts, start = Counter(clock.seconds), Counter(clock.counts), time.perf_counter()
        exec(compile(text, f"{script}: {title}", "exec"), space)
        lines.append(
            {
                "title": title,
                "wall": time.perf_counter() - start,
                "waiting": clock.seconds["waiting"] - seconds["waiting"],
                "answers": clock.seconds["answers"] - seconds["answers"],
                "requests": clock.counts["answers"] - counts["answers"],
            }
        )
    target.write_text(json.dumps(lines))


if __name__ == "__main__":
    main()
