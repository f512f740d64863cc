"""Models for a person: facts, tags, metrics, and the lineage as a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tunesmith.display.units import size, when

if TYPE_CHECKING:
    from tunesmith.records.assets import Lineage, ModelVersion


def render_model(model: ModelVersion) -> RenderableType:
    """Everything known of a model version."""
    labels = f"  [{', '.join(model.labels)}]" if model.labels else ""
    head = Text.assemble((f"{model.name}:{model.version}", "bold"), Text(labels), f"  {model.registry}")
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    rows: list[tuple[str, str | None]] = [
        ("description", model.description),
        ("type", model.type),
        ("state", model.state + (" (archived)" if model.archived else "")),
        ("licence", model.license),
        ("parameters", f"{model.parameter_count:,}" if model.parameter_count else None),
        ("context", f"{model.context_length:,} tokens" if model.context_length else None),
        ("architecture", model.architecture),
        ("source", model.source),
        ("path", model.path),
        ("size", size(model.size_bytes) or None),
        ("sha256", model.sha256),
        ("chat contract", model.chat_contract),
        ("created", when(model.created_at)),
        ("id", model.id),
    ]
    for key, value in rows:
        if value:
            facts.add_row(key, Text(value))
    parts: list[RenderableType] = [head, facts]
    if model.metrics:
        parts.append(_pairs("metrics", {key: f"{value:.6g}" for key, value in model.metrics.items()}))
    if model.tags:
        parts.append(_pairs("tags", model.tags))
    if model.lineage:
        parts.append(lineage_tree(model.lineage))
    return Group(*parts)


def _pairs(title: str, items: dict[str, str]) -> Table:
    grid = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False, pad_edge=False)
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for key, value in sorted(items.items()):
        grid.add_row(key, Text(value))
    return grid


def lineage_tree(lineage: Lineage) -> Tree:
    """What went into a model, each with the hash that proves it."""
    source = (
        f"job {lineage.job}" + (f", step {lineage.step}" if lineage.step else "") if lineage.job else lineage.created_by
    )
    tree = Tree(Text.assemble(("lineage ", "bold"), source))
    for item in lineage.items:
        line = Text.assemble((item.role, "cyan"), f"  {item.reference}")
        if item.sha256:
            line.append(f"  sha256 {item.sha256[:16]}", "dim")
        branch = tree.add(line)
        for key, value in item.detail.items():
            branch.add(Text(f"{key}: {value}", "dim"))
    return tree
