"""Everything after import runs with sockets blocked, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.models.adapters import random_adapter
from tunesmith.models import ModelPackage

SCRIPT = """
    import os, socket, sys, traceback, warnings
    warnings.simplefilter("ignore")

    def refuse(*arguments, **__):
        traceback.print_stack()
        print("the network was asked for", arguments, file=sys.stderr, flush=True)
        os._exit(3)

    socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
    socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse

    from pathlib import Path
    from tunesmith.models import ModelPackage, import_model, load_model, merge_adapter, save_package
    from tunesmith.models.mlflow_format import write_mlflow_model

    root, base, adapter = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    package = import_model(base, root / "package", downloads=root, name="tiny")
    package.tokenizer().check_probes()
    model = load_model(package)
    save_package(model, root / "saved", like=package)
    report = merge_adapter(package, adapter, root / "merged")
    write_mlflow_model(ModelPackage.open(root / "merged"), root / "mlflow", adapter=adapter)
    import mlflow.pyfunc
    answer = mlflow.pyfunc.load_model(str(root / "mlflow")).predict(
        {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    )
    print(report.faults(), answer[0]["object"])
"""


@pytest.mark.heavy
def test_load_save_merge_and_mlflow_ask_no_network(llama: ModelPackage, tmp_path: Path) -> None:
    adapter = random_adapter(llama, tmp_path / "adapter")
    # HF_HUB_OFFLINE is not set: nothing may lean on it. A base named like a hub's repository tempts PEFT to ask.
    environment = {
        key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    }
    environment |= {"HF_HOME": str(tmp_path / "hf"), "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), str(llama.path), str(adapter)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == "[] chat.completion"
