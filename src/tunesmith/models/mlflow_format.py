"""The MLflow model folder: what ``mlflow.transformers`` and ``mlflow.pyfunc`` open, with the package inside.

    MLmodel                  flavors transformers (task llm/v1/chat) and python_function, signature, metadata
    model/                   the package, whole
    components/tokenizer/    the tokenizer for MLflow's own scorer
    adapter/                 the unmerged LoRA adapter, where there is one
    input_example.json  serving_input_example.json  requirements.txt  conda.yaml  python_env.yaml

Files that MLflow wants in two places are one file with two names. The folder is written directly, because
``save_model`` would copy the weights, load them, and ask the hub for a model card.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import AlreadyExists, UserError
from tunesmith.models.adapter_files import ADAPTER_FOLDER
from tunesmith.models.files import link_or_copy, written_aside
from tunesmith.models.merging import check_adapter
from tunesmith.models.package import MANIFEST_FILE, MLFLOW_PACKAGE_FOLDER, MLMODEL_FILE, ModelPackage
from tunesmith.models.tokenizer_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from tunesmith.reporting import NullReporter, Reporter

TASK = "llm/v1/chat"
TOKENIZER_FOLDER = "components/tokenizer"
METADATA_KEY = "tunesmith"
DEFAULT_MAX_TOKENS = 256
"""For callers of MLflow's scorer that name no ``max_tokens``."""
INPUT_EXAMPLE = {"messages": [{"role": "user", "content": "Hello! Who are you?"}], "max_tokens": 64}
REQUIREMENTS = ("mlflow", "transformers", "torch", "accelerate", "safetensors", "tokenizers", "jinja2")


def write_mlflow_model(
    package: ModelPackage,
    destination: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    adapter: Path | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Write the MLflow model folder ``destination`` around ``package`` and return it.

    ``metadata`` goes into ``MLmodel`` as it is (evaluation metrics, samples, base model: anything JSON can hold); the
    keys ``task`` and ``tunesmith`` are taken. ``adapter`` is put beside the merged weights. Raises ``AlreadyExists``
    when ``destination`` is there; nothing half-made is left.
    """
    reporter = reporter or NullReporter()
    if destination.exists():
        raise AlreadyExists("there is something at this path already", target=str(destination))
    extra = _checked_metadata(metadata or {})
    adapter_sha256 = check_adapter(adapter) if adapter else None
    with written_aside(destination, f"the MLflow model of {package.manifest.name}") as aside:
        _link_tree(package.path, aside / MLFLOW_PACKAGE_FOLDER, [*package.manifest.files, MANIFEST_FILE])
        _write_scorer_tokenizer(package, aside / TOKENIZER_FOLDER)
        if adapter:
            names = [
                path.name for path in adapter.iterdir() if path.is_file() and path.suffix in {".json", ".safetensors"}
            ]
            _link_tree(adapter, aside / ADAPTER_FOLDER, names)
        own = {
            "name": package.manifest.name,
            "package": MLFLOW_PACKAGE_FOLDER,
            "package_sha256": package.sha256,
            "chat_contract": package.manifest.chat_contract,
            "base": package.manifest.origin.model_dump(exclude_none=True),
            **({"adapter": ADAPTER_FOLDER, "adapter_sha256": adapter_sha256} if adapter else {}),
        }
        _write_environment(aside)
        _write_mlmodel(package, aside, {**extra, "task": TASK, METADATA_KEY: own})
    reporter.log(f"MLflow model folder: {destination}")
    return destination


def _checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    taken = sorted({"task", METADATA_KEY} & set(metadata))
    if taken:
        raise UserError(
            f"the metadata key {taken[0]!r} is taken", target=f"metadata.{taken[0]}", way_out="choose another key"
        )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the metadata cannot be written as JSON: {error}",
            target="metadata",
            way_out="use text, finite numbers, booleans, lists and mappings",
        ) from error
    return plain


def _link_tree(source: Path, into: Path, names: list[str]) -> None:
    for name in names:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source / name, into / name)


def _write_scorer_tokenizer(package: ModelPackage, into: Path) -> None:
    """The tokenizer as MLflow's scorer must have it.

    The scorer renders the chat template and then encodes the text like any other, so a tokenizer that adds BOS by
    itself would give it twice. Here it adds nothing.
    """
    from tokenizers import Tokenizer

    names = [name for name in package.manifest.files if "/" not in name and _is_tokenizer_file(name)]
    _link_tree(package.path, into, names)
    tokenizer = Tokenizer.from_file(str(package.path / TOKENIZER_FILE))
    config = json.loads((package.path / TOKENIZER_CONFIG_FILE).read_text(encoding="utf-8"))
    if tokenizer.encode("a").ids != tokenizer.encode("a", add_special_tokens=False).ids:
        body = json.loads((package.path / TOKENIZER_FILE).read_text(encoding="utf-8"))
        body["post_processor"] = None
        _replace(into / TOKENIZER_FILE, json.dumps(body, ensure_ascii=False))
    # The plain class takes tokenizer.json as it is; the classes of some families would put their own additions back.
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_eos_token": False}
    _replace(into / TOKENIZER_CONFIG_FILE, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _is_tokenizer_file(name: str) -> bool:
    return name in {TOKENIZER_FILE, "chat_template.jinja", "special_tokens_map.json", "added_tokens.json"}


def _replace(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # it may be a second name of the package's file
    path.write_text(text, encoding="utf-8")


def _requirements() -> list[str]:
    """The installed versions, without the local part (``+cpu``) that no index has."""
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS]


def _write_environment(folder: Path) -> None:
    requirements = _requirements()
    python = platform.python_version()
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    environment = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    _write_yaml(folder / "python_env.yaml", environment)
    _write_yaml(
        folder / "conda.yaml",
        {
            "name": "mlflow-env",
            "channels": ["conda-forge"],
            "dependencies": [f"python={python}", "pip", {"pip": requirements}],
        },
    )
    for name in ("input_example.json", "serving_input_example.json"):
        (folder / name).write_text(json.dumps(INPUT_EXAMPLE, indent=2) + "\n", encoding="utf-8")


def _write_yaml(path: Path, body: object) -> None:
    path.write_text(yaml.safe_dump(body, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _write_mlmodel(package: ModelPackage, folder: Path, metadata: dict[str, Any]) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of its own type hints when it is imported
        import mlflow.pyfunc
        from mlflow.models import Model
        from mlflow.transformers.llm_inference_utils import infer_signature_from_llm_inference_task

    manifest = package.manifest
    model = Model(metadata=metadata, signature=infer_signature_from_llm_inference_task(TASK))
    model.saved_input_example_info = {
        "artifact_path": "input_example.json",
        "serving_input_path": "serving_input_example.json",
        "type": "json_object",
    }
    model.add_flavor(
        "transformers",
        transformers_version=importlib.metadata.version("transformers"),
        code=None,
        task="text-generation",
        inference_task=TASK,
        instance_type="TextGenerationPipeline",
        torch_dtype=f"torch.{manifest.dtype}",
        pipeline_model_type=manifest.architecture,
        source_model_name=manifest.name,
        model_binary=MLFLOW_PACKAGE_FOLDER,
        components=["tokenizer"],
        tokenizer_type="PreTrainedTokenizerFast",
    )
    mlflow.pyfunc.add_to_model(
        model,
        loader_module="mlflow.transformers",
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_config={"max_new_tokens": DEFAULT_MAX_TOKENS},
    )
    model.model_size_bytes = package.size_bytes
    model.save(str(folder / MLMODEL_FILE))
