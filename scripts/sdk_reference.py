"""Writes the reference of the Python SDK from the signatures and docstrings of the code."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

TARGET = "docs/reference/sdk.md"

SERVICES = (
    ("models", "client.models", "Models"),
    ("data", "client.data", "Data"),
    ("components", "client.components", "Components"),
    ("environments", "client.components", "Environments"),
    ("computes", "client.computes", "Computes"),
    ("jobs", "client.jobs", "Jobs"),
    ("endpoints", "client.endpoints", "Endpoints"),
    ("deployments", "client.deployments", "Deployments"),
)
VIEWS = ("Model", "Data", "Component", "Environment", "Compute", "Job", "Endpoint", "EndpointKeys", "Deployment")
SECTIONS = ("Args", "Raises", "Returns", "Examples")


def render() -> str:
    """The page as Markdown."""
    from importlib import import_module

    import tunesmith
    from tunesmith.client import views
    from tunesmith.client.workspace import Workspace

    lines = [
        "# Python SDK",
        "",
        "Made from the code by `make docs`; a test keeps it true, and the examples run as tests. How to begin is in",
        "[Python SDK](../sdk.md).",
        "",
    ]
    lines += _class("Workspace", Workspace, "Workspace", public=True)
    for attribute, module, name in SERVICES:
        kind = getattr(import_module(f"tunesmith.{module}"), name)
        lines += _class(f"workspace.{attribute}", kind, f"ws.{attribute}", public=False)
    lines += [
        "## Records",
        "",
        "What the services return. Each prints as text (`print`), with Rich, and in a notebook.",
        "",
    ]
    for name in VIEWS:
        lines += _record(name, getattr(views, name))
    for name in ("ChatAnswer", "ChatChunk"):
        lines += [f"### {name}", "", *_prose(inspect.getdoc(getattr(views, name)) or ""), ""]
        lines += [f"- `{key}`: {_first(value)}" for key, value in _properties(getattr(views, name))] + [""]
    lines += ["## Names of the package", "", "`tunesmith` exports:", ""]
    lines += [", ".join(f"`{name}`" for name in tunesmith.__all__) + ".", ""]
    return "\n".join(lines).rstrip() + "\n"


def _class(title: str, kind: type[Any], prefix: str, *, public: bool) -> Iterator[str]:
    yield from (f"## {title}", "")
    if public:
        yield from ("```python", _signature(prefix, kind.__init__), "```", "")
    yield from (*_prose(inspect.getdoc(kind) or ""), "")
    for name, member in _methods(kind):
        yield from (f"### {prefix}.{name}", "")
        if isinstance(member, property):
            yield from (*_prose(inspect.getdoc(member) or ""), "")
            continue
        yield from (
            "```python",
            _signature(f"{prefix}.{name}", member),
            "```",
            "",
            *_prose(inspect.getdoc(member) or ""),
            "",
        )


def _methods(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    seen: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("tunesmith."):
            seen.update(vars(base))
    for name, member in seen.items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


def _properties(kind: type[Any]) -> list[tuple[str, Any]]:
    return [(name, member) for name, member in vars(kind).items() if isinstance(member, property)]


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    answer = f" -> {_annotation(signature.return_annotation)}" if function.__name__ != "__init__" else ""
    shown = []
    starred = False
    for one in parameters:
        if one.kind is one.KEYWORD_ONLY and not starred:
            starred = True
            shown.append("*")
        starred = starred or one.kind is one.VAR_POSITIONAL
        stars = "**" if one.kind is one.VAR_KEYWORD else "*" if one.kind is one.VAR_POSITIONAL else ""
        default = "" if one.default is one.empty else f" = {one.default!r}"
        shown.append(f"{stars}{one.name}: {_annotation(one.annotation)}{default}")
    flat = f"{name}({', '.join(shown)}){answer}"
    return flat if len(flat) <= 100 else f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){answer}"


def _annotation(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return text.replace("builtins.", "").replace("DataView", "Data")


def _record(name: str, view: type[Any]) -> Iterator[str]:
    yield from (f"### {name}", "", *_prose(inspect.getdoc(view) or ""), "", "| field | type |", "| --- | --- |")
    for field, info in view.model_fields.items():
        kind = re.sub(r"(typing|datetime|tunesmith\.[a-z_.]+)\.", "", str(info.annotation))
        kind = re.sub(r"<(class|enum) '([^']+)'>", r"\2", kind)
        yield f"| `{field}` | `{kind.replace('|', chr(92) + '|')}` |"
    yield ""


def _first(member: Any) -> str:
    return (inspect.getdoc(member) or "").splitlines()[0].replace("``", "`")


def _prose(doc: str) -> Iterator[str]:
    """A docstring as Markdown: its sections become lists and code."""
    section = ""
    block: list[str] = []
    for line in [*doc.splitlines(), "End:"]:
        if line.rstrip(":") in (*SECTIONS, "End") and line.endswith(":"):
            yield from _section(section, block)
            section, block = line.rstrip(":"), []
        else:
            block.append(line)


def _section(section: str, block: list[str]) -> Iterator[str]:
    text = textwrap.dedent("\n".join(block)).strip()
    if not text:
        return
    if not section:
        yield text.replace("``", "`")
        return
    if section == "Examples":
        yield from ("", "```pycon", text, "```")
        return
    yield from ("", f"{'Parameters' if section == 'Args' else section}:", "")
    for line in re.sub(r"\n\s+", " ", text).splitlines():
        name, _, words = line.partition(": ")
        yield f"- `{name}`: {words.replace('``', '`')}" if words else f"- {line.replace('``', '`')}"
