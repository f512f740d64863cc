"""Azure ML SDK in bad weather: refusals, failures, cancels, two scripts at once; the checks are in ``sdk_checks``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.azure_sdk import azure_python
from tests.support.walkthrough import BASE, stage
from tunesmith.client import Workspace

CHECKS = Path(__file__).with_name("sdk_checks.py")


@pytest.mark.heavy
@pytest.mark.azure
@pytest.mark.timeout(1800)
def test_what_the_sdk_says_when_things_go_wrong(tmp_path: Path) -> None:
    with stage(azure_python(), tmp_path) as scene:
        with Workspace(scene.server.home, start=False) as workspace:
            package = workspace.models.get(BASE, registry="azureml").path
        shutil.copytree(str(package), scene.folder / "model-folder")
        shutil.copy(CHECKS, scene.folder)
        done = scene.run(CHECKS.name, check=False)
        assert done.returncode == 0, f"{done.stdout[-12000:]}\n{done.stderr[-4000:]}"
        wanted = re.findall(r"(?m)^@check\ndef (\w+)", CHECKS.read_text("utf-8"))
        assert re.findall(r"(?m)check (\w+): ok", done.stdout) == wanted
