"""The first model of the catalogue, with its real weights."""

from __future__ import annotations

import json

import pytest
import torch

from tests.support.smollm2 import smollm2
from tunesmith.chat.messages import Message
from tunesmith.models import ModelPackage, load_model
from tunesmith.models.catalogue import entry
from tunesmith.models.parity import greedy_of

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return smollm2(tmp_path_factory.mktemp("smollm2") / "package")


def test_facts_are_those_of_the_catalogue(package: ModelPackage) -> None:
    known = entry("SmolLM2-135M-Instruct")
    facts = package.manifest
    assert facts.parameter_count == known.parameter_count
    assert facts.context_length == known.context_length
    assert facts.architecture == known.architecture
    assert facts.license == known.license
    assert facts.dtype == "bfloat16"
    assert facts.tied_embeddings
    assert facts.origin.conversion == "dequantised from GGUF Q4_1, Q8_0 to bfloat16"


def test_tokenizer_is_the_one_the_model_was_trained_with(package: ModelPackage) -> None:
    from transformers import AutoTokenizer

    tokenizer = package.tokenizer()
    # Numbers go digit by digit: what the file had lost.
    assert [tokenizer.token(id) for id in tokenizer.encode_text("In 2024")] == ["In", "Ġ", "2", "0", "2", "4"]
    assert tokenizer.vocabulary_size == 49_152
    assert tokenizer.contract.end_of_turn == "<|im_end|>"
    assert tokenizer.contract.eos_token_ids[0] == 2
    assert json.loads((package.path / "generation_config.json").read_text())["eos_token_id"][0] == 2
    theirs = AutoTokenizer.from_pretrained(package.path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id) == (1, 2, 2, 0)
    text = "  It's 3,141 o'clock: naïve café 你好 🙂\n\tdef f(x):\n"
    assert theirs(text)["input_ids"] == tokenizer.encode_text(text)
    assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_model_answers_and_stops(package: ModelPackage) -> None:
    tokenizer = package.tokenizer()
    prompt = tokenizer.encode_prompt([Message("user", "What is the capital of France?")])
    with torch.inference_mode():
        said = greedy_of(load_model(package), [prompt], count=24, stops=tokenizer.contract.eos_token_ids)[0]
    assert said[-1] == 2
    assert tokenizer.decode(said) == "The capital of France is Paris."
