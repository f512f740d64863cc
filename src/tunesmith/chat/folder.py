"""What a Hugging Face model folder says about its tokenizer: the files, in the order of precedence that transformers
gives them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from tunesmith.chat.contract import TOKENIZER_FILE
from tunesmith.errors import InvalidModel

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_tokenizer(folder: Path) -> bytes:
    """The bytes of ``tokenizer.json``. Raises ``InvalidModel`` with the way out where there is none."""
    path = folder / TOKENIZER_FILE
    try:
        return path.read_bytes()
    except FileNotFoundError:
        slow = [name for name in ("tokenizer.model", "vocab.json", "spiece.model") if (folder / name).exists()]
        if not folder.is_dir():
            raise InvalidModel("no such model folder", target=str(folder)) from None
        if slow:
            raise InvalidModel(
                f"no {TOKENIZER_FILE}, only {', '.join(slow)}",
                target=str(folder),
                way_out="import the folder with `tunesmith models import`, which converts it, or save it once with "
                "transformers' AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
            ) from None
        raise InvalidModel(
            f"no {TOKENIZER_FILE} in the model folder",
            target=str(folder),
            way_out="copy the tokenizer's files of the base model into the folder",
        ) from None
    except OSError as error:
        raise InvalidModel(f"cannot read: {error.strerror}", target=str(path)) from error


def open_tokenizer(content: bytes, added_tokens: Sequence[str]) -> Tokenizer:
    """A tokenizer that adds nothing to a text, cuts and fills up nothing, and keeps the exact place of every token."""
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises plain Exception
        raise InvalidModel(
            f"{TOKENIZER_FILE} cannot be read: {error}",
            target=TOKENIZER_FILE,
            way_out="copy the file again from the base model",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A post-processor only adds special tokens (never wanted here) and trims offsets, which would lose white space
    # from its tokens' places.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    missing = [token for token in added_tokens if tokenizer.token_to_id(token) is None]
    if missing:
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    return tokenizer


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file; empty where there is no such file."""
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InvalidModel(
            f"not valid JSON: {error}", target=str(path), way_out="copy the file again from the base model"
        ) from error
    return body if isinstance(body, dict) else {}


def _token_text(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def special_tokens(config: Mapping[str, Any], legacy: Mapping[str, Any]) -> dict[str, str | None]:
    """Named special tokens: those every model may have, and a model's own (``image_token`` and the like)."""
    merged = {
        **(legacy if "added_tokens_decoder" not in config else {}),
        **{k: v for k, v in config.items() if v is not None},
    }
    extra = merged.get("extra_special_tokens")
    own = {name: value for name, value in merged.items() if name.endswith("_token") and name not in SPECIAL_NAMES}
    if isinstance(extra, Mapping):
        own.update(extra)
    found: dict[str, str | None] = {}
    for name, value in [*((name, merged.get(name)) for name in SPECIAL_NAMES), *sorted(own.items())]:
        if (text := _token_text(value)) is not None:
            found[name] = text
    return found


def templates(folder: Path, config: Mapping[str, Any]) -> tuple[str, str | None]:
    """The template and, where the model has one, that for conversations with tools."""
    named: dict[str, str] = {}
    listed = config.get("chat_template")
    if isinstance(listed, str):
        named["default"] = listed
    elif isinstance(listed, list):
        named.update({item["name"]: item["template"] for item in listed if isinstance(item, Mapping)})
    elif isinstance(listed, Mapping):
        named.update({str(name): str(text) for name, text in listed.items()})
    own = folder / "chat_template.jinja"
    others = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    if own.is_file() or others:  # files win over the configuration
        named = {path.stem: path.read_text(encoding="utf-8") for path in others}
        if own.is_file():
            named["default"] = own.read_text(encoding="utf-8")
    if not named and (folder / "chat_template.json").is_file():
        text = read_json(folder / "chat_template.json").get("chat_template")
        if isinstance(text, str):
            named["default"] = text
    if "default" not in named:
        raise InvalidModel(
            "the model has no chat template" + (f" named default, only {', '.join(sorted(named))}" if named else ""),
            target=str(folder),
            way_out="use the instruct variant of the model, or give a template in chat_template.jinja",
        )
    return named["default"], named.get("tool_use")


def eos_ids(folder: Path, tokenizer: Tokenizer, end_of_turn: str, eos: str | None) -> tuple[int, ...]:
    """The id that ends a turn, then whatever else ends generation for this model."""
    ids = [tokenizer.token_to_id(end_of_turn)]
    if eos is not None:
        ids.append(tokenizer.token_to_id(eos))
    listed: Any = None
    for name in ("generation_config.json", "config.json"):
        listed = read_json(folder / name).get("eos_token_id")
        if listed is not None:
            break
    ids += listed if isinstance(listed, list) else [listed]
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    return tuple(dict.fromkeys(id for id in ids if isinstance(id, int) and 0 <= id < size))


def variables(special: Mapping[str, str | None]) -> dict[str, str]:
    """Special tokens as the variables of a template: those there are."""
    return {name: token for name, token in special.items() if token is not None}
