from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Quant

from tests.models.conftest import Listener
from tests.support.gguf_files import byte_level_metadata, write_gguf
from tests.support.tiny import CHATML_TEMPLATE, CORPUS, PHI3_TEMPLATE, tiny_model
from tunesmith.errors import InvalidModel
from tunesmith.models import ModelPackage, import_model, load_model

SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
IDS = torch.tensor([[5, 7, 300, 41, 9, 12, 255, 8, 77, 3, 100, 411]])


def random_model(config: Any, *, seed: int = 0) -> Any:
    """A random model whose norms are not all one, so that a norm in the wrong place shows."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith(("norm.weight", ".bias")):
                tensor.add_(torch.randn_like(tensor) * 0.2)
    return model


def families() -> dict[str, tuple[Callable[[], Any], dict[str, Any], dict[str, np.ndarray]]]:
    from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config, Qwen2Config, Qwen3Config

    long, short = [1.0 + i / 4 for i in range(8)], [1.0 + i / 16 for i in range(8)]
    longrope = {"type": "longrope", "long_factor": long, "short_factor": short}
    llama3 = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return {
        "llama": (
            lambda: LlamaConfig(**SHAPE, rope_theta=1e5, tie_word_embeddings=True),
            {"llama.rope.freq_base": 1e5, "llama.rope.dimension_count": 16, "llama.vocab_size": 512},
            {},
        ),
        "llama with llama3 scaling": (
            lambda: LlamaConfig(
                **{**SHAPE, "max_position_embeddings": 131072}, rope_theta=5e5, rope_scaling=llama3, head_dim=16
            ),
            {"llama.rope.freq_base": 5e5},
            {"rope_freqs.weight": llama3_factors(5e5, 16, 32.0)},
        ),
        "qwen2": (lambda: Qwen2Config(**SHAPE, rope_theta=1e6), {"qwen2.rope.freq_base": 1e6}, {}),
        "qwen3": (
            lambda: Qwen3Config(**SHAPE, rope_theta=1e6, head_dim=32),
            {"qwen3.rope.freq_base": 1e6, "qwen3.attention.key_length": 32},
            {},
        ),
        "phi3": (
            lambda: Phi3Config(
                **{**SHAPE, "max_position_embeddings": 1024},
                original_max_position_embeddings=512,
                rope_scaling=longrope,
                sliding_window=256,
                pad_token_id=0,
            ),
            {
                "phi3.rope.freq_base": 1e4,
                "phi3.rope.dimension_count": 16,
                "phi3.rope.scaling.original_context_length": 512,
                "phi3.attention.sliding_window": 256,
            },
            {
                "rope_factors_long.weight": np.array(long, np.float32),
                "rope_factors_short.weight": np.array(short, np.float32),
            },
        ),
        "gemma3": (
            lambda: Gemma3TextConfig(
                **{**SHAPE, "num_hidden_layers": 7},
                head_dim=32,
                query_pre_attn_scalar=32,
                sliding_window=8,
                pad_token_id=0,
            ),
            {
                "gemma3.rope.freq_base": 1e6,
                "gemma3.attention.key_length": 32,
                "gemma3.attention.sliding_window": 8,
            },
            {},
        ),
    }


def llama3_factors(theta: float, head_dim: int, factor: float) -> np.ndarray:
    """What llama.cpp's converter writes into ``rope_freqs.weight``."""
    factors = []
    for frequency in 1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim):
        wavelength = 2 * np.pi / frequency
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192 / 1:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / 3
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return byte_level_metadata(tiny_model("llama", tmp_path_factory.mktemp("tokens") / "llama"))


def load(path: Path, listener: Listener | None = None, **more: Any) -> ModelPackage:
    into = path.parent / "packages" / path.stem
    return import_model(str(path), into, downloads=path.parent / "downloads", name="tiny", reporter=listener, **more)


@pytest.mark.parametrize("family", list(families()))
def test_logits_are_those_of_the_model_the_file_was_made_from(
    family: str, tmp_path: Path, tokens: dict[str, Any], listener: Listener
) -> None:
    make, facts, extra = families()[family]
    model = random_model(make())
    path = write_gguf(model, tmp_path / "m.gguf", family.split()[0], tokenizer=tokens, facts=facts, extra_tensors=extra)
    package = load(path, listener)
    assert package.manifest.dtype == "float32"
    assert package.manifest.parameter_count == sum(p.numel() for p in model.parameters())
    assert package.manifest.context_length == model.config.max_position_embeddings
    again = load_model(package)
    with torch.inference_mode():
        torch.testing.assert_close(again(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-5)
    assert listener.progressed["convert"][-1] == (4 * sum(p.numel() for p in model.parameters()),) * 2


@pytest.mark.parametrize(
    ("quantisation", "dtype", "error"),
    [
        (Quant.F16, "float16", 2e-3),
        (Quant.BF16, "bfloat16", 1e-2),
        (Quant.Q8_0, "bfloat16", 3e-2),
        (Quant.Q4_1, "bfloat16", 0.2),
    ],
)
def test_quantised_weights_become_bfloat16(
    quantisation: Quant, dtype: str, error: float, tmp_path: Path, tokens: dict[str, Any]
) -> None:
    model = random_model(families()["qwen2"][0]())
    path = write_gguf(model, tmp_path / "m.gguf", "qwen2", tokenizer=tokens, quantisation=quantisation)
    package = load(path)
    assert package.manifest.dtype == dtype
    assert quantisation.name in package.manifest.origin.conversion
    again = load_model(package, dtype="float32")
    mine, theirs = again.state_dict(), model.state_dict()
    for name in ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"):
        scale = theirs[name].abs().max()
        assert (mine[name] - theirs[name]).abs().max() / scale < error
    assert getattr(again.config, "quantization_config", None) is None
    again.save_pretrained(tmp_path / "saved")  # a model that counts as quantised would refuse


def test_large_embeddings_are_converted_in_parts(
    tmp_path: Path, tokens: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tunesmith.models.sources.gguf as module

    model = random_model(families()["llama"][0]())
    path = write_gguf(model, tmp_path / "m.gguf", "llama", tokenizer=tokens, quantisation=Quant.Q8_0)
    whole = load(path)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 200)
    path = path.rename(tmp_path / "parts.gguf")
    assert load(path).manifest.files["model.safetensors"] == whole.manifest.files["model.safetensors"]


def test_rounding_to_bfloat16_is_torchs() -> None:
    from tunesmith.models.sources.gguf import _bytes

    values = np.concatenate([np.random.default_rng(0).normal(size=10_000), [1 + 2**-8, 1 + 3 * 2**-8, 0.0, -0.0]])
    weights = values.astype(np.float32)
    mine = torch.frombuffer(bytearray(_bytes(weights, "BF16", "x")), dtype=torch.bfloat16)
    assert torch.equal(mine, torch.from_numpy(weights).to(torch.bfloat16))


def test_byte_level_tokenizer_is_given_back(tmp_path: Path, tokens: dict[str, Any]) -> None:
    from tokenizers import Tokenizer

    folder = tiny_model("llama", tmp_path / "folder")
    first = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = random_model(families()["llama"][0]())
    package = load(write_gguf(model, tmp_path / "m.gguf", "llama", tokenizer=tokens))
    again = Tokenizer.from_file(str(package.path / "tokenizer.json"))
    for text in [*CORPUS[:7], "<|im_start|>user\n2024 Grüße 🙂<|im_end|>\n", "  a\t\n\nb ", "it's 'quoted'"]:
        assert again.encode(text).ids == first.encode(text).ids
        assert again.decode(again.encode(text).ids, skip_special_tokens=False) == text
    config = json.loads((package.path / "tokenizer_config.json").read_text())
    assert [config[name] for name in ("bos_token", "eos_token", "pad_token")] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    ]
    assert config["chat_template"] == CHATML_TEMPLATE
    generation = json.loads((package.path / "generation_config.json").read_text())
    assert generation["eos_token_id"][0] == first.token_to_id("<|im_end|>")


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("smollm", "In 2024", ["In", " ", "2", "0", "2", "4"]),
        ("qwen2", "In 2024", ["In", " ", "2", "0", "2", "4"]),
        ("llama-bpe", "In 20245", ["In", " ", "202", "45"]),
        ("gpt-4o", "camelCase's", ["camel", "Case's"]),
        ("tekken", "camelCase's", ["camel", "Case", "'s"]),
        ("gpt-2", "it's 2024", ["it", "'s", " 2024"]),
    ],
)
def test_each_way_to_split(pre: str, text: str, pieces: list[str], tokens: dict[str, Any]) -> None:
    from tunesmith.models.sources.gguf_tokenizer import _byte_level

    tokenizer = _byte_level({**tokens, "tokenizer.ggml.pre": pre}, tokens["tokenizer.ggml.tokens"])
    split = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in split] == pieces


def sentencepiece_like() -> Any:
    """A tokenizer of the kind SentencePiece models are turned into, as Phi-3's and Llama 2's are."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "<|endoftext|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    special += ["<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([word for line in CORPUS for word in line.split()], trainer)
    body = json.loads(tokenizer.to_str())
    body["added_tokens"] = [token for token in body["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(body))
    tokenizer.add_special_tokens(
        [
            AddedToken(token, rstrip=True, normalized=False)
            for token in ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def test_sentencepiece_vocabulary_of_phi3_is_given_back(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    first = sentencepiece_like()
    body = json.loads(first.to_str())
    vocabulary = first.get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    order = {"".join(pair): rank for rank, pair in reversed(list(enumerate(body["model"]["merges"])))}
    special = {token["content"] for token in body["added_tokens"]}
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [float(-order.get(token, 10_000)) for token in tokens],
        "tokenizer.ggml.token_type": [
            2 if token == "<unk>" else 3 if token in special else 6 if token.startswith("<0x") else 1
            for token in tokens
        ],
        "tokenizer.ggml.bos_token_id": vocabulary["<s>"],
        "tokenizer.ggml.eos_token_id": vocabulary["<|endoftext|>"],
        "tokenizer.ggml.unknown_token_id": vocabulary["<unk>"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": PHI3_TEMPLATE,
    }
    make, facts, extra = families()["phi3"]
    model = random_model(make())
    path = write_gguf(model, tmp_path / "m.gguf", "phi3", tokenizer=metadata, facts=facts, extra_tensors=extra)
    package = load(path)
    again = Tokenizer.from_file(str(package.path / "tokenizer.json"))
    # White space after a special token belongs to it: the newline that Phi-3's template writes after <|user|> gives
    # no id.
    chat = "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n"
    for text in [chat, "The fox", "  two spaces", "Grüße 🙂", "weather in Paris", "\n"]:
        assert again.encode(text, add_special_tokens=False).ids == first.encode(text, add_special_tokens=False).ids
    assert again.decode(again.encode("Grüße 🙂").ids) == "Grüße 🙂"
    assert package.tokenizer().contract.end_of_turn == "<|end|>"


def change(tokens: dict[str, Any], **changes: Any) -> dict[str, Any]:
    found = {**tokens, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in found.items() if value is not None}


BAD: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], dict[str, Any], str]] = {
    "no vocabulary": (lambda t: change(t, tokenizer__ggml__tokens=None), {}, "no vocabulary"),
    "no merges": (lambda t: change(t, tokenizer__ggml__merges=None), {}, "no merges"),
    "unknown split": (lambda t: change(t, tokenizer__ggml__pre="zork"), {}, "splits text in the way 'zork'"),
    "unknown tokenizer": (lambda t: change(t, tokenizer__ggml__model="bert"), {}, "tokenizer of the kind 'bert'"),
    "no template": (lambda t: change(t, tokenizer__chat_template=None), {}, "chat template"),
    "special token beyond": (lambda t: change(t, tokenizer__ggml__eos_token_id=9999), {}, "eos_token_id is 9999"),
    "missing tensor": (dict, {"leave_out": ["blk.1.ffn_down.weight"]}, r"1 tensors are missing \(blk.1.ffn_down"),
    "unknown tensor": (
        dict,
        {"extra_tensors": {"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}},
        r"1 tensors are not known \(blk.0.attn_sinks",
    ),
    "unknown rotary factors": (
        dict,
        {"extra_tensors": {"rope_freqs.weight": np.linspace(1, 9, 8, dtype=np.float32)}},
        "belong to no scaling known here",
    ),
    "unknown scaling": (dict, {"facts": {"llama.rope.scaling.type": "zork"}}, "rotary scaling 'zork'"),
}


@pytest.mark.parametrize(("metadata", "more", "said"), BAD.values(), ids=list(BAD))
def test_bad_file_is_named_and_leaves_nothing(
    metadata: Callable[[dict[str, Any]], dict[str, Any]],
    more: dict[str, Any],
    said: str,
    tmp_path: Path,
    tokens: dict[str, Any],
) -> None:
    model = random_model(families()["llama"][0]())
    path = write_gguf(model, tmp_path / "m.gguf", "llama", tokenizer=metadata(tokens), **more)
    with pytest.raises(InvalidModel, match=said) as caught:
        load(path)
    assert str(caught.value.target).startswith(str(path))
    assert list((tmp_path / "packages").iterdir()) == []


def test_unknown_architecture_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "rwkv6")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InvalidModel, match=r"architecture 'rwkv6' cannot be converted \(known: llama"):
        load(tmp_path / "m.gguf")


@pytest.mark.parametrize("part", [0.001, 0.2, 0.9])
def test_truncated_file_is_named(part: float, tmp_path: Path, tokens: dict[str, Any]) -> None:
    path = write_gguf(random_model(families()["llama"][0]()), tmp_path / "m.gguf", "llama", tokenizer=tokens)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InvalidModel, match=r"cut short") as caught:
        load(path)
    assert caught.value.target == str(path)


def test_our_reader_reads_what_the_library_reads(tmp_path: Path, tokens: dict[str, Any]) -> None:
    from tunesmith.models.sources.gguf_reader import read_gguf

    path = write_gguf(
        random_model(families()["llama"][0]()),
        tmp_path / "m.gguf",
        "llama",
        tokenizer=tokens,
        quantisation=Quant.Q8_0,
        facts={"some.flag": True, "some.number": 7, "some.float": 0.1, "some.floats": [0.5, 1.5], "some.text": "ü"},
    )
    theirs = gguf.GGUFReader(path)
    ours = read_gguf(path)
    assert ours.metadata == {
        key: value.contents() for key, value in theirs.fields.items() if not key.startswith("GGUF.")
    }
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.kind, mine.shape) == (tensor.tensor_type, tuple(reversed(tensor.shape.tolist())))
        assert ours.data(mine).tobytes() == tensor.data.tobytes()


@pytest.mark.parametrize(
    "content",
    [
        b"GGUF" + (9).to_bytes(4, "little"),
        b"GGUF" + (3).to_bytes(4, "big") + bytes(16),
        b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16,
        b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (1).to_bytes(8, "little") + b"\x01" + bytes(7) + b"\xff" * 9,
    ],
    ids=["version", "byte-order", "counts", "text"],
)
def test_damaged_header(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(InvalidModel, match=r"cut short or damaged \(") as caught:
        load(tmp_path / "m.gguf")
    assert caught.value.target == str(tmp_path / "m.gguf")


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04" + b"0" * 100)
    with pytest.raises(InvalidModel, match="is no GGUF file"):
        load(tmp_path / "m.gguf")


def test_pinned_content(tmp_path: Path, tokens: dict[str, Any]) -> None:
    from tunesmith.models.files import sha256_of

    path = write_gguf(random_model(families()["llama"][0]()), tmp_path / "m.gguf", "llama", tokenizer=tokens)
    with pytest.raises(InvalidModel, match="not the one that was pinned"):
        load(path, expected_sha256="0" * 64)
    package = load(path, expected_sha256=sha256_of(path))
    assert package.manifest.origin.sha256 == sha256_of(path)
