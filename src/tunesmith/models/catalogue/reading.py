"""The base models that the system registry ships: what they are and where their weights come from, as YAML beside
this file.

Holds no weights and asks no network.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import NotFound

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The compiled parser where PyYAML has it."""


class CatalogueEntry(BaseModel):
    """One base model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    description: str
    license: str
    source: str
    """What ``import_model`` takes."""
    expected_sha256: str | None = None
    """Pins the file of ``source``; not those of ``other_sources``."""
    other_sources: tuple[str, ...] = ()
    """Where the same model is to be had as well."""
    architecture: str
    parameter_count: int
    context_length: int
    """In tokens."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Azure's tags; lists and mappings are Python literals."""

    def tag(self, name: str) -> Any:
        """A tag as a value: the parsed literal of ``finetune_compute_allow_list``, ``model_specific_defaults``, …

        A tag that is no literal is given as its text; one that is not there as ``None``.
        """
        text = self.tags.get(name)
        if text is None:
            return None
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text


@cache
def entries() -> tuple[CatalogueEntry, ...]:
    """Every entry, the smallest model first."""
    found = [
        CatalogueEntry.model_validate(yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER))
        for file in resources.files(__package__).iterdir()
        if file.name.endswith(".yaml")
    ]
    return tuple(sorted(found, key=lambda entry: (entry.parameter_count, entry.name)))


def entry(name: str) -> CatalogueEntry:
    """The entry of this name; ``NotFound`` with the names that come near."""
    import difflib

    for found in entries():
        if found.name == name:
            return found
    names = [known.name for known in entries()]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    raise NotFound(
        f"the catalogue has no model {name!r}",
        target=name,
        way_out=f"did you mean {', '.join(near)}?" if near else f"known models: {', '.join(names)}",
    )
