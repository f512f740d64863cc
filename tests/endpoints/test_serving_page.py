"""Every command of the pages on serving and on the safe roll-out runs as it stands, on tiny models."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.exports import with_shared_exports

DOCS = Path(__file__).parents[2] / "docs"


def commands(page: str) -> list[str]:
    return re.findall(r"^ *\$ (.+)$", (DOCS / page).read_text("utf-8"), flags=re.MULTILINE)


@pytest.mark.heavy
@pytest.mark.timeout(520)
def test_the_pages_run(tmp_path: Path, models: dict[str, Path]) -> None:
    lines = [
        f"tunesmith models register chat-model --path {models[name]} --type custom_model"
        for name in ("tiny-phi3", "tuned-phi3")
    ]
    lines += commands("serving.md") + commands("safe-rollout.md")
    assert len(lines) > 30
    script = "set -euo pipefail\ntrap 'tunesmith down --all >/dev/null 2>&1 || true' EXIT\n"
    script += "".join(f"echo {shlex.quote('$ ' + line)}\n{line}\n" for line in lines)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if name != "TUNESMITH_ENGINE"},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TUNESMITH_HOME": str(with_shared_exports(tmp_path / "home")),
            "no_proxy": "127.0.0.1,localhost",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "data: [DONE]" in done.stdout
    assert '"output":' in done.stdout
    assert 'tunesmith_mirrored_dropped_total{endpoint="chat",deployment="green"} 0' in done.stdout
    assert "conversations.jsonl: 1 conversations." in done.stdout
    kept = json.loads((tmp_path / "conversations.jsonl").read_text("utf-8"))
    assert kept["messages"][0] == {"role": "user", "content": "I am [EMAIL], about [REDACTED]. Hello!"}
    assert "azureml-model-deployment: green" in done.stdout
