"""The documentation is true: generated pages are current, links lead somewhere, the walk-through runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r":\s*(\S+\.md)\s*$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


def commands(page: Path) -> list[str]:
    """The lines after ``$ `` in the page's console blocks, in order."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_walkthrough_runs_as_it_stands(tmp_path: Path) -> None:
    """Every command of the walk-through, on the real SmolLM2 and real conversations, in one shell."""
    lines = commands(ROOT / "docs" / "walkthrough.md")
    assert len(lines) > 30
    script = "set -euo pipefail\ntrap 'tunesmith down --all >/dev/null 2>&1 || true' EXIT\n"
    script += "".join(f"echo {_quoted('$ ' + line)}\n{line}\n" for line in lines)
    (tmp_path / "walk").mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TUNESMITH_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "2",
    }
    for ours in ("HF_HUB_OFFLINE", "TUNESMITH_MLFLOW"):
        environment.pop(ours, None)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path / "walk",
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "chitchat:1" in done.stdout
    assert "lineage" in done.stdout
    assert '"finish_reason"' in done.stdout


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
