"""How fast things start, and what they weigh: ``tunesmith --help``, ``import tunesmith``, the server.

Each figure is the median of several runs, in processes of their own, with files in the system's cache (the first run
of each is not counted). ``make bench-startup`` runs it; it exits with 1 where a budget is broken.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from this_machine import describe

FORBIDDEN = ("torch", "transformers", "mlflow", "peft", "openvino")
"""What the server, the command line's help and the bare import must never load."""

READ = (
    "workspace",
    "registries",
    "registries/azureml/models",
    "registries/azureml/components",
    "computes",
    "compute/sizes",
    "compute/machine",
    "jobs",
    "endpoints",
    "doctor",
)
"""Routes that are read before the server is weighed."""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    values: list[float]
    unit: str
    budget: float | None = None

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def kept(self) -> bool:
        """Whether the budget is kept."""
        return self.budget is None or self.median <= self.budget


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="runs of each quick figure; the server gets a third")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    tunesmith = str(Path(sys.executable).with_name("tunesmith"))
    few = max(3, options.runs // 3)
    help_, import_ = [tunesmith, "--help"], [sys.executable, "-c", "import tunesmith"]
    workspace = [sys.executable, "-c", "from tunesmith import Workspace"]
    bare = [sys.executable, "-c", "pass"]
    figures = [
        Figure("python itself", _repeat(lambda: _wall(bare), options.runs), "s"),
        Figure("tunesmith --help", _repeat(lambda: _wall(help_), options.runs), "s", 0.3),
        Figure("import tunesmith", _repeat(lambda: _wall(import_), options.runs), "s", 0.2),
        Figure("from tunesmith import Workspace", _repeat(lambda: _wall(workspace), options.runs), "s"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        ready, weights = [], []
        for number in range(few + 1):
            seconds, bytes_ = _server(Path(folder) / f"fresh-{number}")
            ready.append(seconds)
            weights.append(bytes_ / 1e6)
        again = [_server(Path(folder) / "fresh-0")[0] for _ in range(few)]
        figures += [
            Figure("server ready, new workspace", ready[1:], "s", 2.5),
            Figure("server ready, known workspace", again, "s", 2.5),
            Figure("server's memory after reading every list", weights[1:], "MB", 250),
        ]
        loaded = _modules_of_server(Path(folder) / "fresh-0")
    loaded |= _modules(help_[1:], script=tunesmith) | _modules(["-c", "import tunesmith"])
    found = sorted(loaded & set(FORBIDDEN))
    _print(figures, found)
    if options.json:
        options.json.write_text(
            json.dumps({f.name: {"median": f.median, "values": f.values} for f in figures}, indent=1)
        )
    return 0 if all(figure.kept for figure in figures) and not found else 1


def _repeat(measure: Callable[[], float], runs: int) -> list[float]:
    measure()
    return [measure() for _ in range(runs)]


def _wall(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _server(home: Path) -> tuple[float, int]:
    """Seconds from the start of the process to its first answer, and its resident bytes after some reading."""
    start = time.perf_counter()
    with _running(home, []) as (process, http):
        ready = time.perf_counter() - start
        for route in READ:
            http.get(f"/api/v1/{route}").raise_for_status()
        return ready, psutil.Process(process.pid).memory_info().rss


@contextmanager
def _running(home: Path, options: list[str], **how: Any) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, *options, "-m", "tunesmith.server", "--workspace", str(home), "--port", "0"]
    how.setdefault("stderr", subprocess.DEVNULL)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True, **how)
    try:
        address = home / "server.json"
        while True:
            if process.poll() is not None:
                raise SystemExit(f"the server ended with {process.returncode}")
            try:
                url = json.loads(address.read_text())["url"]
                httpx.get(f"{url}/healthz", trust_env=False).raise_for_status()
                break
            except (FileNotFoundError, ValueError, httpx.HTTPError):
                time.sleep(0.005)
        token = (home / "token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as http:
            yield process, http
    finally:
        process.terminate()
        process.wait(30)


def _modules_of_server(home: Path) -> set[str]:
    """The top-level packages that a server has loaded after every list was read."""
    with tempfile.TemporaryFile("w+") as said:
        with _running(home, ["-X", "importtime"], stderr=said) as (_, http):
            for route in READ:
                http.get(f"/api/v1/{route}").raise_for_status()
        said.seek(0)
        return _top_level(said.read())


def _modules(arguments: list[str], *, script: str | None = None) -> set[str]:
    command = [sys.executable, "-X", "importtime", *([script] if script else []), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return _top_level(done.stderr)


def _top_level(importtime: str) -> set[str]:
    names = (line.rpartition("|")[2].strip() for line in importtime.splitlines() if line.startswith("import time:"))
    return {name.partition(".")[0] for name in names}


def _print(figures: list[Figure], found: list[str]) -> None:
    import importlib.metadata

    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("tunesmith", "fastapi", "sqlalchemy")
    )
    print(f"{describe()}, {platform.system()} {platform.release()}")
    print(f"Python {platform.python_version()}, {versions}\n")
    width = max(len(figure.name) for figure in figures)
    print(f"{'':{width}}   median      min      max   budget")
    for figure in figures:
        budget = "" if figure.budget is None else f"{figure.budget:8.4g} {'kept' if figure.kept else 'BROKEN'}"
        low, high = min(figure.values), max(figure.values)
        print(f"{figure.name:{width}} {figure.median:8.3f} {low:8.3f} {high:8.3f} {budget} {figure.unit}".rstrip())
    print(f"\nnever loaded: {', '.join(name for name in FORBIDDEN if name not in found)}")
    if found:
        print(f"LOADED although it must not be: {', '.join(found)}")


if __name__ == "__main__":
    sys.exit(main())
