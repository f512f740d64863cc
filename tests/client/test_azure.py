from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.server import RunningServer
from tunesmith.client import Workspace
from tunesmith.errors import UserError


def test_an_environment_names_only_files_of_the_workspace(server: RunningServer, tmp_path: Path) -> None:
    with Workspace(server.home, start=False) as ws:
        found = ws.azure.environment({"PATH": "/bin"}, folder=tmp_path)
        names = json.loads(Path(str(found["TUNESMITH_AZURE_CONFIG"])).read_text())
        assert names["subscription_id"] == ws.status().id
        assert Path(str(found["REQUESTS_CA_BUNDLE"])).is_relative_to(server.home / "azure")
        assert found["PYTHONPATH"] is not None
        cli = Path(str(found["AZURE_CONFIG_DIR"]))
        assert cli == server.home / "azure" / "cli" and cli.stat().st_mode & 0o777 == 0o700
        profile = cli / "azureProfile.json"
        assert json.loads(profile.read_text())["subscriptions"][0]["id"] == ws.status().id
        profile.write_text("{}")  # the command itself changes it
        ws.azure.environment({}, folder=tmp_path)
        assert profile.read_text() == "{}"
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "config.json").write_text("{}")
        assert "TUNESMITH_AZURE_CONFIG" not in ws.azure.environment({}, folder=tmp_path)
        assert "HTTPS_PROXY" not in ws.azure.environment({}, folder=tmp_path, proxy=False)
    assert "TUNESMITH_AZURE_CONFIG" not in os.environ


def test_a_workspace_of_another_machine_is_refused(server: RunningServer) -> None:
    with Workspace(url=server.url, token=server.token) as ws, pytest.raises(UserError) as error:
        ws.azure.session()
    assert error.value.target == "url"
