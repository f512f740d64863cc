"""The base models that the system registry ships."""

from tunesmith.models.catalogue.reading import CatalogueEntry, entries, entry

__all__ = ["CatalogueEntry", "entries", "entry"]
