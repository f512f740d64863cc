"""vLLM's own server as a child process: its command line, its start, its end.

vLLM pins a torch of its own, so it may live in another environment: ``TUNESMITH_VLLM`` names its command, else ``vllm``
is looked for beside this Python and on the path. Knows nothing of requests.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith.errors import DeploymentFailed

COMMAND_VARIABLE = "TUNESMITH_VLLM"
BASE = "@base"
"""The name of the model without an adapter; no adapter can have it."""
START_SECONDS = 1800.0
"""Loading and compiling a large model takes minutes."""
POLL_SECONDS = 0.1
END_SECONDS = 20.0
LOG_LINES = 20
KEPT_ADAPTERS = 32
"""Adapters that wait in the machine's memory for their turn on the GPU; beyond these one is read from its folder."""
DTYPES = {"auto": "auto", "32": "float32", "bf16": "bfloat16", "16": "float16"}


def find_vllm() -> Path | None:
    """The command, if it is on this machine."""
    if given := os.environ.get(COMMAND_VARIABLE):
        return Path(given)
    beside = Path(sys.executable).with_name("vllm")
    found = shutil.which("vllm")
    return beside if beside.is_file() else Path(found) if found else None


def command_line(
    vllm: Path,
    model: Path,
    *,
    port: int,
    precision: str,
    context_length: int,
    max_answers: int,
    cache_bytes: int | None,
    adapters: Mapping[str, Path],
    max_rank: int = 0,
) -> list[str]:
    """How the server is started; ``max_rank`` is the largest rank that an adapter may have, see ``rank_step``."""
    command = [
        *(str(vllm), "serve", str(model)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--served-model-name", BASE),
        *("--dtype", DTYPES[precision]),
        *("--max-model-len", str(context_length)),
        *("--max-num-seqs", str(max_answers)),
        # Sampling is what a request says, never what the model's generation_config.json says.
        *("--generation-config", "vllm"),
        *("--max-logprobs", "20"),
        "--disable-uvicorn-access-log",
    ]
    if cache_bytes is not None:
        command += ["--kv-cache-memory-bytes", str(cache_bytes)]
    if adapters:
        command += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(max_rank)]
        command += ["--max-cpu-loras", str(max(KEPT_ADAPTERS, len(adapters)))]
        command += ["--lora-modules", *(f"{name}={folder}" for name, folder in adapters.items())]
    return command


def rank_step(rank: int) -> int:
    """The next rank that vLLM has kernels for."""
    return next((step for step in (8, 16, 32, 64, 128, 256, 320, 512) if rank <= step), rank)


class VllmServer:
    """One server. ``wait_ready`` returns when it is."""

    def __init__(self, command: Sequence[str], port: int, *, change_adapters: bool = False) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.key = secrets.token_urlsafe(24)
        """Only the engine may ask; the key is in the environment, where other users do not see it."""
        self._log = tempfile.NamedTemporaryFile("w+", prefix="tunesmith-vllm-", suffix=".log", delete=False)  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "VLLM_API_KEY": self.key,
                "VLLM_NO_USAGE_STATS": "1",
                "HF_HUB_OFFLINE": "1",
                # Routes that load and unload adapters; the key guards them as it guards all others.
                **({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} if change_adapters else {}),
            },
        )

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Until it answers ``/health``. ``DeploymentFailed`` with the end of its log when it ends before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.alive:
                raise self._failed(f"vLLM ended with status {self._process.returncode} while it started")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(POLL_SECONDS)
        raise self._failed(f"vLLM was not ready within {seconds:g} s")

    @property
    def alive(self) -> bool:
        """Whether the process is."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it; may be called twice."""
        if self.alive:
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if not self._log.closed:
            self._log.close()
            Path(self._log.name).unlink(missing_ok=True)

    def last_lines(self) -> list[str]:
        """The end of its log."""
        text = Path(self._log.name).read_text(encoding="utf-8", errors="replace")
        return text.splitlines()[-LOG_LINES:]

    def _failed(self, message: str) -> DeploymentFailed:
        lines = self.last_lines()
        self.close()
        return DeploymentFailed(
            message + (f": {lines[-1]}" if lines else ""),
            target="engine",
            way_out="its log names the cause; the transformers engine needs no server of its own",
            extra={"log": lines},
        )


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
