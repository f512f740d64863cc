"""An MLflow model folder: ours, one of MLflow's transformers flavor, or one of Azure's ``hftransformersv2``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import InvalidModel
from tunesmith.models.package import MANIFEST_FILE, MLFLOW_PACKAGE_FOLDER, MLMODEL_FILE, Manifest, Origin
from tunesmith.models.sources.base import FetchContext, Fetched
from tunesmith.models.sources.folder import FolderSource, content_sha256, copy_files, license_of, wanted_files
from tunesmith.models.weights import INDEX_FILE, WEIGHTS_FILE, read_tensors, weight_files

_AZURE_FLAVORS = ("hftransformersv2", "hftransformers")


@dataclass(frozen=True, slots=True)
class MlflowSource:
    """Weights, configuration and tokenizer may lie in folders of their own; here they become one."""

    text: str
    path: Path

    def _folders(self) -> list[Path]:
        """The folders with the parts, the weights' first. Only those inside the MLflow folder are looked at."""
        flavors = self._mlmodel().get("flavors") or {}
        inside: list[str] = []
        if isinstance(conf := flavors.get("transformers"), dict):
            if conf.get("peft_adaptor") and not conf.get("model_binary"):
                raise InvalidModel(
                    "this MLflow model holds only a LoRA adapter and not its base model",
                    target=str(self.path / MLMODEL_FILE),
                    way_out="merge the adapter into its base model first, then import the merged folder",
                )
            inside = [str(conf.get("model_binary") or "model"), "components/tokenizer", "components"]
        elif any(name in flavors for name in _AZURE_FLAVORS):
            inside = ["data/model", "data/tokenizer", "data/config", "data"]
        folders = [self.path / name for name in inside if ".." not in name.split("/") and (self.path / name).is_dir()]
        if not folders:
            raise InvalidModel(
                f"this MLflow model has the flavors {', '.join(sorted(flavors)) or 'none'} and no folder with "
                "transformers weights",
                target=str(self.path / MLMODEL_FILE),
                way_out="give an MLflow model that was saved with mlflow.transformers, or the Hugging Face folder "
                "itself",
            )
        return folders

    def _mlmodel(self) -> dict[str, Any]:
        path = self.path / MLMODEL_FILE
        try:
            body = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidModel(f"MLmodel is no YAML: {error}", target=str(path)) from error
        if not isinstance(body, dict):
            raise InvalidModel("MLmodel holds no mapping", target=str(path))
        return body

    def _package(self) -> FolderSource | None:
        folder = self.path / MLFLOW_PACKAGE_FOLDER
        return FolderSource(self.text, folder) if (folder / MANIFEST_FILE).is_file() else None

    def _files(self) -> dict[str, Path]:
        folders = self._folders()
        weights = weight_files(folders[0])
        files: dict[str, Path] = {}
        for folder in reversed(folders):
            files |= wanted_files(folder)
        if len(weights) == 1 and not (folders[0] / INDEX_FILE).is_file():
            files[WEIGHTS_FILE] = folders[0] / weights[0]
        else:
            files[INDEX_FILE] = folders[0] / INDEX_FILE
            files.update({name: folders[0] / name for name in weights})
        return files

    def matches(self, manifest: Manifest, context: FetchContext) -> bool:
        """Whether the folder still has the content that the package was made from."""
        if package := self._package():
            return package.matches(manifest, context)
        return content_sha256(self._files()) == manifest.origin.sha256

    def fetch(self, into: Path, context: FetchContext) -> Fetched:
        """Copy the package out of the folder, or bring its parts together."""
        if package := self._package():
            return package.fetch(into, context)
        read_tensors(self._folders()[0])
        files = self._files()
        hashes = copy_files(files, into, context)
        return Fetched(
            origin=Origin(source=self.text, sha256=content_sha256(files, hashes)),
            license=license_of(into / "README.md"),
            hashes=hashes,
        )
