"""MLflow behind the server: its pages and its API, opened by the workspace's token or a browser session."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.server import RunningServer

CLIENT = """
import mlflow
mlflow.set_experiment("from-the-client")
with mlflow.start_run(run_name="one") as run:
    mlflow.log_param("rate", 3)
    for step in range(3):
        mlflow.log_metric("loss", 1.0 / (step + 1), step=step)
    mlflow.log_text("hello", "notes/hello.txt")
    print("RUN", run.info.run_id)
assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/hello.txt") == "hello"
"""


@pytest.mark.heavy
def test_mlflows_own_client_and_pages_work(server: RunningServer, http: httpx.Client, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"{server.url}/mlflow",
        "MLFLOW_TRACKING_TOKEN": server.token,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLIENT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run_id = re.findall(r"RUN (\w+)", done.stdout)[0]
    run = http.get("/mlflow/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
    assert run["data"]["metrics"][0]["value"] == pytest.approx(1 / 3)

    page = http.get("/mlflow/")
    assert page.status_code == 200 and "text/html" in page.headers["content-type"]
    scripts = re.findall(r'src="([^"]+\.js)"', page.text)
    assert scripts and http.get(str(httpx.URL(f"{server.url}/mlflow/").join(scripts[0]))).status_code == 200
    assert http.get("/mlflow", follow_redirects=False).headers["location"] == "/mlflow/"

    link = http.post("/api/v1/login-links").json()["url"]
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as browser:
        assert browser.get(f"{link}&to=/mlflow/").headers["location"] == "/mlflow/"
        ours = {"origin": server.url}
        found = browser.post("/mlflow/ajax-api/2.0/mlflow/experiments/search", json={"max_results": 9}, headers=ours)
        assert "from-the-client" in [one["name"] for one in found.json()["experiments"]]
        assert browser.get("/mlflow/", headers={"origin": "http://evil.example"}).status_code == 403

    body = os.urandom(5_000_000)
    place = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{run['info']['experiment_id']}/{run_id}/artifacts/big.bin"
    assert http.put(place, content=(body[i : i + 65536] for i in range(0, len(body), 65536))).status_code == 200
    assert hashlib.sha256(http.get(place).content).digest() == hashlib.sha256(body).digest()

    evil = b"<script>fetch('/api/v1/shutdown', {method: 'POST'})</script>"
    place = place.replace("big.bin", "page.html")
    assert http.put(place, content=evil).status_code == 200
    assert http.get(place).headers["content-security-policy"].startswith("sandbox;")
    assert "connect-src 'self'" in page.headers["content-security-policy"]

    log = (server.home / "logs" / "mlflow.log").read_text(errors="replace")
    assert server.token not in log
