"""Tiny random models in real formats: Phi-3 architecture with Phi-3's tokens, and Llama with ChatML tokens.

Each is a Hugging Face folder (config.json, model.safetensors, tokenizer.json, chat_template.jinja,
generation_config.json), made once in a cache folder outside the repository and copied from there, so a test that
only needs files does not import torch.
"""

# ruff: noqa: E501, C408, SIM905

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

Family = Literal["phi3", "llama", "qwen2"]

CORPUS = [
    "Hello, how are you doing today? I am fine, thank you very much.",
    "The quick brown fox jumps over the lazy dog while 0123456789 birds sing.",
    "What is the capital of France? The capital of France is Paris.",
    "Please write a short story about a robot that learns to paint.",
    "def add(a, b):\n    return a + b\n",
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}',
    "You are a helpful assistant. Answer briefly and kindly, in one sentence.",
] * 4

PHI3_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

CHATML_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SPECIAL = {
    "phi3": ["<unk>", "<s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
    "llama": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}

VERSION = "3"


def tiny_model(family: Family, destination: Path, *, seed: int = 0, context_length: int = 512) -> Path:
    """Write a tiny random model of ``family`` to ``destination`` (a new folder) and return it."""
    key = hashlib.sha256(f"{VERSION}|{family}|{seed}|{context_length}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path(tempfile.gettempdir()) / f"tunesmith-tiny-{os.getuid()}"))
    made = cache / key
    if not (made / "done").exists():
        aside = cache / f"{key}.{os.getpid()}"
        _make(family, aside, seed, context_length)
        (aside / "done").touch()
        try:
            aside.rename(made)
        except OSError:  # another process was first
            shutil.rmtree(aside)
    shutil.copytree(made, destination, ignore=shutil.ignore_patterns("done"))
    return destination


def _make(family: Family, folder: Path, seed: int, context_length: int) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
        Phi3Config,
        Phi3ForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL[family],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    end_of_turn = "<|end|>" if family == "phi3" else "<|im_end|>"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        # Phi-3 has pad = eos = <|endoftext|>; SmolLM2 has pad = eos = <|im_end|>: the traps must be in the tests.
        eos_token="<|endoftext|>" if family == "phi3" else "<|im_end|>",
        pad_token="<|endoftext|>" if family == "phi3" else "<|im_end|>",
        bos_token="<s>" if family == "phi3" else "<|im_start|>",
        unk_token="<unk>" if family == "phi3" else "<|endoftext|>",
        model_max_length=context_length,
    )
    fast.chat_template = PHI3_TEMPLATE if family == "phi3" else CHATML_TEMPLATE
    fast.save_pretrained(folder)
    shape = dict(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context_length,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    torch.manual_seed(seed)
    model = {
        "phi3": lambda: Phi3ForCausalLM(Phi3Config(**shape, original_max_position_embeddings=context_length)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**shape)),
    }[family]()
    model.generation_config = GenerationConfig(
        bos_token_id=fast.bos_token_id,
        eos_token_id=[fast.eos_token_id, fast.convert_tokens_to_ids(end_of_turn)],
        pad_token_id=fast.pad_token_id,
    )
    model.save_pretrained(folder)


def tiny_conversations(path: Path, count: int = 16, *, seed: int = 0) -> Path:
    """Write ``count`` small deterministic conversations as ``messages`` JSONL to ``path``."""
    words = "hello world paris robot paint fox dog story answer kindly briefly weather bird sing".split()
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            digest = hashlib.sha256(f"{seed}:{i}".encode()).digest()
            pick = [words[b % len(words)] for b in digest]
            messages = [
                {"role": "user", "content": f"What about {pick[0]} and {pick[1]} number {i}?"},
                {"role": "assistant", "content": f"The {pick[2]} is {pick[3]} {pick[4]}."},
                {"role": "user", "content": f"And {pick[5]}?"},
                {"role": "assistant", "content": f"It is {pick[6]}, thank you."},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path
