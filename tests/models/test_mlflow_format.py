from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.models.adapters import random_adapter
from tests.models.conftest import Listener
from tunesmith.errors import AlreadyExists, InvalidModel, UserError
from tunesmith.models import ModelPackage, import_model
from tunesmith.models.mlflow_format import write_mlflow_model
from tunesmith.models.mlflow_scorer import MlflowScorer


@pytest.fixture(scope="module")
def adapter(llama: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(llama, tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.fixture(scope="module")
def folder(llama: ModelPackage, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow folder. Read only."""
    metadata = {"metrics": {"perplexity": 12.5}, "samples": [{"question": "Who?", "answer": "Me."}]}
    return write_mlflow_model(llama, tmp_path_factory.mktemp("mlflow") / "model", metadata=metadata, adapter=adapter)


def mlmodel(folder: Path) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text())
    return body


def test_mlmodel_says_what_mlflow_needs(folder: Path, llama: ModelPackage) -> None:
    body = mlmodel(folder)
    flavor = body["flavors"]["transformers"]
    assert flavor["inference_task"] == "llm/v1/chat"
    assert flavor["task"] == "text-generation"
    assert flavor["pipeline_model_type"] == "LlamaForCausalLM"
    assert flavor["torch_dtype"] == "torch.float32"
    assert body["flavors"]["python_function"]["loader_module"] == "mlflow.transformers"
    assert json.loads(body["signature"]["inputs"])[0]["name"] == "messages"
    assert "choices" in {column["name"] for column in json.loads(body["signature"]["outputs"])}
    assert body["model_size_bytes"] == llama.size_bytes
    own = body["metadata"]["tunesmith"]
    assert own["package_sha256"] == llama.sha256
    assert own["chat_contract"] == llama.manifest.chat_contract
    assert own["adapter"] == "adapter"
    assert body["metadata"]["metrics"] == {"perplexity": 12.5}
    assert body["metadata"]["samples"][0]["answer"] == "Me."
    assert body["metadata"]["task"] == "llm/v1/chat"


def test_package_is_inside_whole_and_lies_on_disk_once(folder: Path, llama: ModelPackage) -> None:
    package = ModelPackage.open(folder, full=True)
    assert package.path == folder / "model"
    assert package.sha256 == llama.sha256
    assert (package.path / "model.safetensors").samefile(llama.path / "model.safetensors")
    assert (folder / "components/tokenizer/tokenizer.json").samefile(package.path / "tokenizer.json")


def test_unmerged_adapter_stands_beside(folder: Path, adapter: Path) -> None:
    assert {path.name for path in (folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    mine = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    assert mine == (adapter / "adapter_model.safetensors").read_bytes()


def test_requirements_are_pinned_to_what_is_installed(folder: Path) -> None:
    import importlib.metadata

    lines = (folder / "requirements.txt").read_text().splitlines()
    assert f"transformers=={importlib.metadata.version('transformers')}" in lines
    assert all("==" in line and "+" not in line for line in lines)
    assert yaml.safe_load((folder / "conda.yaml").read_text())["dependencies"][-1]["pip"] == lines


def test_mlflow_reads_it_as_it_reads_its_own(folder: Path) -> None:
    import mlflow.models

    model = mlflow.models.Model.load(str(folder))
    assert model.load_input_example(str(folder)) == {
        "messages": [{"role": "user", "content": "Hello! Who are you?"}],
        "max_tokens": 64,
    }
    assert model.signature is not None
    assert mlflow.models.get_model_info(str(folder)).flavors.keys() == {"transformers", "python_function"}


def test_folder_may_be_moved_and_imported_again(folder: Path, llama: ModelPackage, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    package = import_model(str(tmp_path / "elsewhere"), tmp_path / "p", downloads=tmp_path, name="again")
    assert package.sha256 == llama.sha256


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"task": "x"}, "'task' is taken"),
        ({"tunesmith": {}}, "'tunesmith' is taken"),
        ({"loss": float("nan")}, "cannot be written as JSON"),
        ({"path": Path("x")}, "cannot be written as JSON"),
    ],
)
def test_metadata_that_cannot_be_kept(llama: ModelPackage, tmp_path: Path, metadata: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        write_mlflow_model(llama, tmp_path / "mlflow", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_destination_that_is_there(llama: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(AlreadyExists):
        write_mlflow_model(llama, tmp_path)


def test_tokenizer_that_adds_bos_does_not_give_it_twice(tiny_phi3: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.from_file(str(tiny_phi3 / "tokenizer.json"))
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    tokenizer.save(str(tiny_phi3 / "tokenizer.json"))
    template = tiny_phi3 / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    package = import_model(str(tiny_phi3), tmp_path / "p", downloads=tmp_path, name="with-bos")
    folder = write_mlflow_model(package, tmp_path / "mlflow")
    scorer = AutoTokenizer.from_pretrained(folder / "components" / "tokenizer")
    text = scorer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    ids = scorer(text)["input_ids"]
    assert ids.count(bos) == 1
    from tunesmith.chat.messages import Message

    assert ids == package.tokenizer().encode_prompt([Message("user", "Hi")])
    # The package itself stays as it was published.
    assert AutoTokenizer.from_pretrained(package.path)("Hi")["input_ids"][0] == bos


@pytest.mark.heavy
def test_mlflow_answers_in_a_fresh_process(folder: Path, llama: ModelPackage) -> None:
    with MlflowScorer() as scorer:
        check = scorer.check(folder, max_tokens=5)
    assert check.completion_tokens <= 5
    from tunesmith.chat.messages import Message

    prompt = llama.tokenizer().encode_prompt([Message("user", check.question)])
    assert check.prompt_tokens == len(prompt)
    assert check.probes >= 5


def test_a_scorer_that_is_never_asked_ends_with_its_context(tmp_path: Path) -> None:
    import psutil

    def scorers() -> list[int]:
        children = psutil.Process().children()
        alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        return [child.pid for child in alive if "tunesmith.models.mlflow_check" in child.cmdline()]

    with pytest.raises(InvalidModel, match="no MLmodel"), MlflowScorer() as scorer:
        assert len(scorers()) == 1
        scorer.check(tmp_path)
    assert scorers() == []


FORKED = """
import sys
from pathlib import Path
from tunesmith.models.mlflow_scorer import MlflowScorer
with MlflowScorer(fork=True) as scorer:
    try:
        print(scorer.check(Path(sys.argv[1])).model_dump_json())
    except Exception as error:
        print(type(error).__name__, error)
print("ends as it should", scorer._process.returncode)
"""


@pytest.mark.heavy
def test_folder_that_mlflow_cannot_use_is_named(folder: Path, tmp_path: Path) -> None:
    """By a scorer that is the fork of a process without threads."""
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    tokenizer = broken / "components" / "tokenizer" / "tokenizer.json"
    body = json.loads(tokenizer.read_text())
    body["normalizer"] = {"type": "Lowercase"}
    tokenizer.write_text(json.dumps(body))
    done = subprocess.run([sys.executable, "-c", FORKED, broken], check=True, capture_output=True, text=True)
    said, _, end = done.stdout.splitlines()
    assert said.startswith(
        f"Failure {broken}: MLflow cannot use this model folder: "
        "MLflow's tokenizer gives other ids than the chat contract for"
    )
    assert (end, done.stderr) == ("ends as it should 1", "")


def test_a_forked_scorer_that_is_never_asked_ends_with_its_context(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, tmp_path], check=True, capture_output=True, text=True)
    said, end = done.stdout.splitlines()
    assert said.startswith(f"InvalidModel {tmp_path}: this folder is no MLflow model")
    assert end == "ends as it should -9"


@pytest.mark.heavy
def test_mlflow_serves_it(folder: Path, listener: Listener) -> None:
    """What ``mlflow models serve`` does with a request, without its process: the scoring server's own application."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        from fastapi.testclient import TestClient
        from mlflow.pyfunc.scoring_server import init

        client = TestClient(init(mlflow.pyfunc.load_model(str(folder))))
        answer = client.post("/invocations", json={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    body = body[0] if isinstance(body, list) else body
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["usage"]["completion_tokens"] <= 3
