"""The tokenizer's files in a package, in the spelling that every reader understands.

Turning text into ids is not done here: that is ``chat``'s. This module only sees to it that the files are there, agree
with the weights, and can be opened by older releases of transformers and by other tools.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.errors import InvalidModel

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
# Names that only recent releases of transformers write; the class they all stand for is the plain fast tokenizer.
_NEW_CLASS_NAMES = {"TokenizersBackend", "PreTrainedTokenizerFast", None}


def normalise_tokenizer(folder: Path, *, vocab_size: int) -> None:
    """Check the tokenizer's files in a package that is being made, and complete them.

    Raises ``InvalidModel`` when there is no tokenizer, when it has ids beyond the model's vocabulary, or when a file
    is damaged.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        _convert_slow(folder)
    _check_ids(folder, vocab_size)
    config = _read_json(folder / TOKENIZER_CONFIG_FILE)
    if "auto_map" in config:
        del config["auto_map"]
    if config.get("tokenizer_class") in _NEW_CLASS_NAMES:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    template = _template(folder, config)
    if template is not None:
        # Newer tools read the file of its own, older ones the entry in the configuration; both say the same.
        config["chat_template"] = template
        if isinstance(template, str):
            (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8", newline="")
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / TOKENIZER_CONFIG_FILE).write_text(text, encoding="utf-8")


def _template(folder: Path, config: dict[str, Any]) -> Any:
    """The template that transformers would take: the file, then the older JSON file, then the configuration's entry."""
    path = folder / TEMPLATE_FILE
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    older = folder / "chat_template.json"
    if older.is_file():
        body = _read_json(older)
        older.unlink()
        return body.get("chat_template")
    return config.get("chat_template")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidModel(
            f"{path.name} is not JSON: {error}", target=str(path), way_out="copy or download the file again"
        ) from error
    if not isinstance(body, dict):
        raise InvalidModel(f"{path.name} holds no JSON object", target=str(path))
    return body


def _check_ids(folder: Path, vocab_size: int) -> None:
    from tokenizers import Tokenizer

    path = folder / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise InvalidModel(
            f"{TOKENIZER_FILE} cannot be read: {error}", target=str(path), way_out="copy or download the file again"
        ) from error
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= vocab_size:
        raise InvalidModel(
            f"the tokenizer has ids up to {highest} and the model has {vocab_size} embeddings: they do not belong "
            "together",
            target=str(path),
            way_out="use the tokenizer that was published with these weights",
        )


def _convert_slow(folder: Path) -> None:
    """Make ``tokenizer.json`` from the older files of the same tokenizer, if they are there."""
    older = [
        name for name in ("tokenizer.model", "spiece.model", "vocab.json", "tekken.json") if (folder / name).is_file()
    ]
    if not older:
        raise InvalidModel(
            "the model folder has no tokenizer: there is neither tokenizer.json nor an older form of it",
            target=str(folder),
            way_out="copy tokenizer.json and tokenizer_config.json of the same model into the folder",
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        backend = tokenizer.backend_tokenizer
    except Exception as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidModel(
            f"the tokenizer is only there as {older[0]}, and it cannot be converted to tokenizer.json: {cause}",
            target=str(folder / older[0]),
            way_out="copy the model's tokenizer.json into the folder (most repositories have one)",
        ) from error
    backend.save(str(folder / TOKENIZER_FILE))
