"""MLflow's own clients, unchanged, against a real instance of a tiny model: in a process of their own, for they weigh
half a gigabyte.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.exports import export_here
from tests.support.house import House
from tests.support.tiny import tiny_model
from tunesmith.models import import_model
from tunesmith.records.endpoints import UpdateEndpoint

SCRIPT = """
import json, os, sys
import numpy, pandas, requests
from mlflow.deployments import get_deploy_client
from mlflow.pyfunc.scoring_server import CONTENT_TYPE_JSON
from mlflow.utils.proto_json_utils import dump_input_data

ask = [{"role": "user", "content": "Hello"}]
found = {"chat": get_deploy_client("openai").predict(endpoint="tiny", inputs={"messages": ask})}
headers = {"Content-Type": CONTENT_TYPE_JSON, "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
frame = pandas.DataFrame({"messages": [ask], "max_tokens": [3], "temperature": [0.0]})
for name, data, params in (
    ("frame", frame, None),
    ("params", pandas.DataFrame({"messages": [ask]}), {"max_tokens": 3, "temperature": 0.0}),
):
    answer = requests.post(sys.argv[1], data=dump_input_data(data, params=params), headers=headers)
    found[name] = [answer.status_code, answer.json()]
print("FOUND " + json.dumps(found))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("mlflow-client")
    source = tiny_model("qwen2", folder / "source", context_length=64)
    package = import_model(str(source), folder / "package", downloads=folder / "downloads", name="tiny")
    export_here(package)
    house = House(folder / "house", {"tiny": package.path}).start()
    house.deploy("chat", "blue", "azureml:tiny:1")
    house.service.update("chat", UpdateEndpoint(traffic={"blue": 100}))
    yield house
    house.close()


@pytest.mark.heavy
def test_mlflows_clients(served: House) -> None:
    endpoint = served.service.get("chat")
    environment = {
        **os.environ,
        "OPENAI_API_BASE": str(endpoint.openai_uri),
        "OPENAI_API_KEY": served.service.keys("chat").primary_key,
        "NO_PROXY": "127.0.0.1",
    }
    url = f"{served.url}/endpoints/chat/invocations"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, url], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.rpartition("FOUND ")[2])
    assert found["chat"]["choices"][0]["message"]["content"]
    with served.client("chat") as client:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "temperature": 0}
        wanted = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    for name in ("frame", "params"):
        status, answer = found[name]
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"] == wanted
