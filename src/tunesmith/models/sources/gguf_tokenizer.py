"""From GGUF metadata to ``tokenizer.json`` and ``tokenizer_config.json``.

A GGUF file has the vocabulary and merges and only names the way text is split before merging
(``tokenizer.ggml.pre``); the splitting itself is restored here. A name that is not in the table is an error: a
tokenizer that splits in another way gives other ids and a worse model, and nothing would show it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tunesmith.errors import InvalidModel

Metadata = Mapping[str, Any]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Values of ``tokenizer.ggml.token_type``."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(contractions: str, digits: str) -> str:
    head = r"[^\r\n\p{L}\p{N}]?"
    words = f"{head}{_UPPER}*{_LOWER}+{contractions}|{head}{_UPPER}+{_LOWER}*{contractions}"
    return f"{words}|{digits}" + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _TAIL


_O200K = _cased(_CONTRACTIONS + "?", r"\p{N}{1,3}")
_TEKKEN = _cased("", r"\p{N}")

SPLITS = {
    "llama-bpe": _CL100K,
    "llama3": _CL100K,
    "llama-v3": _CL100K,
    "dbrx": _CL100K,
    "smaug-bpe": _CL100K,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "gpt-4o": _O200K,
    "llama4": _O200K,
    "tekken": _TEKKEN,
}
"""Pre-tokenisers that are one expression, by GGUF's name."""
_WHOLE_WORDS_FIRST = {"llama-bpe", "llama3", "llama-v3", "tekken"}
"""Vocabularies that take a word as it is when it is a token, before any merge."""


def write_tokenizer(meta: Metadata, folder: Path, *, context_length: int) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.

    Raises ``InvalidModel`` when the file has no vocabulary, no chat template, or a splitting that is not known here.
    """
    tokens = meta.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise InvalidModel(
            "the GGUF file has no vocabulary (tokenizer.ggml.tokens), so nothing can be tokenized for it",
            way_out="import the model's Hugging Face folder, or a GGUF file that has its tokenizer in it",
        )
    template = meta.get("tokenizer.chat_template")
    kind = meta.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(meta, tokens)
    elif kind == "llama":
        tokenizer = _sentencepiece(meta, tokens)
    else:
        raise InvalidModel(
            f"the GGUF file has a tokenizer of the kind {kind!r}; known are 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece)",
            way_out="import the model's Hugging Face folder instead of this GGUF file",
        )
    _add_tokens(tokenizer, meta, tokens)
    special = _special_tokens(meta, tokens)
    adds_bos = bool(meta.get("tokenizer.ggml.add_bos_token", kind == "llama"))
    if adds_bos and special["bos_token"] is not None:
        bos = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, tokenizer.token_to_id(bos))],
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: token for name, token in special.items() if token is not None},
        "add_bos_token": adds_bos,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
    }
    if isinstance(template, str) and template.strip():
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _special_tokens(meta: Metadata, tokens: Sequence[str]) -> dict[str, str | None]:
    def token(key: str) -> str | None:
        number = meta.get(f"tokenizer.ggml.{key}_token_id")
        if number is None:
            return None
        if not 0 <= number < len(tokens):
            raise InvalidModel(
                f"tokenizer.ggml.{key}_token_id is {number}, and the vocabulary has {len(tokens)} tokens"
            )
        return tokens[number]

    eos = token("eos")
    return {
        "bos_token": token("bos"),
        "eos_token": eos,
        "unk_token": token("unknown"),
        "pad_token": token("padding") or eos,
    }


def _add_tokens(tokenizer: Tokenizer, meta: Metadata, tokens: Sequence[str]) -> None:
    """Mark control tokens as special and user-defined ones as whole, so that neither is cut into pieces."""
    types = meta.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    # Phi-3's own tokenizer swallows white space after its special tokens, and a GGUF file has no place to say so.
    phi3 = meta.get("general.architecture") == "phi3" and meta.get("tokenizer.ggml.model") == "llama"
    strict = {"<unk>", "<s>", "<|endoftext|>"}
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True, rstrip=phi3 and token not in strict)
            for token, kind in zip(tokens, types, strict=True)
            if kind in (CONTROL, UNKNOWN)
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=False, rstrip=phi3)
            for token, kind in zip(tokens, types, strict=True)
            if kind == USER_DEFINED
        ]
    )


def _byte_level(meta: Metadata, tokens: Sequence[str]) -> Tokenizer:
    pre = str(meta.get("tokenizer.ggml.pre", "default"))
    merges = [tuple(merge.split(" ", 1)) for merge in meta.get("tokenizer.ggml.merges") or ()]
    if not merges:
        raise InvalidModel(
            "the GGUF file has a byte-level vocabulary and no merges",
            way_out="import the model's Hugging Face folder instead of this GGUF file",
        )
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in _WHOLE_WORDS_FIRST))
    if pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif pre == "gpt-2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif pre in SPLITS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        raise InvalidModel(
            f"the GGUF file splits text in the way {pre!r}, which is not known here (known: gpt-2, smollm, "
            f"{', '.join(SPLITS)})",
            way_out="import the model's Hugging Face folder instead of this GGUF file",
        )
    if pre in ("qwen2", "deepseek-r1-qwen"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(meta: Metadata, tokens: Sequence[str]) -> Tokenizer:
    gemma = str(meta.get("general.architecture", "")).startswith("gemma")
    # Gemma's file writes runs of spaces as spaces; its vocabulary has them as "▁".
    spelled = ["▁" * len(t) if gemma and len(t) > 1 and not t.strip(" ") else t for t in tokens]
    vocabulary = {token: number for number, token in enumerate(spelled)}
    if "tokenizer.ggml.merges" in meta:
        merges = [tuple(merge.split(" ", 1)) for merge in meta["tokenizer.ggml.merges"]]
    else:
        scores = [-number for number in range(len(spelled))] if gemma else meta.get("tokenizer.ggml.scores")
        if not scores:
            raise InvalidModel("the GGUF file has a SentencePiece vocabulary without scores")
        types = meta.get("tokenizer.ggml.token_type") or [NORMAL] * len(spelled)
        merges = _merges(spelled, scores, types, vocabulary)
    unknown = meta.get("tokenizer.ggml.unknown_token_id", 0)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=spelled[unknown], fuse_unk=True, byte_fallback=True))
    prefixed = bool(meta.get("tokenizer.ggml.add_space_prefix", not gemma))
    steps: list[normalizers.Normalizer] = [normalizers.Prepend("▁")] if prefixed else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    if gemma:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    back: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefixed:
        back.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(back)
    return tokenizer


def _merges(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """The merges that a SentencePiece vocabulary implies: every split of a token into two tokens, best score first."""
    found: list[tuple[float, int, int, str, str]] = []
    for token, score, kind in zip(tokens, scores, types, strict=True):
        if kind != NORMAL and kind != USER_DEFINED:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-score, vocabulary[left], vocabulary[right], left, right))
    found.sort(key=lambda entry: entry[:3])
    return [(left, right) for *_, left, right in found]
