"""Writes the reference of the HTTP API from the server's own OpenAPI document."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TARGET = "docs/reference/api.md"


def render() -> str:
    """The page as Markdown."""
    document = openapi()
    schemas: dict[str, Any] = document["components"]["schemas"]
    lines = [
        "# HTTP API",
        "",
        "Made from the server's OpenAPI document by `make docs`; a test keeps it true. A running server shows the same",
        "at `/docs`, and the document at `/openapi.json`. What all calls share is in [HTTP API](../api.md).",
        "",
    ]
    groups: dict[str, list[tuple[str, str, Any]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault((operation.get("tags") or ["other"])[0], []).append((path, method.upper(), operation))
    for tag, operations in groups.items():
        lines += [f"## {tag.capitalize()}", ""]
        for path, method, operation in operations:
            lines += _operation(path, method, operation)
    lines += ["## Records", ""]
    for name in sorted(schemas):
        if name not in {"HTTPValidationError", "ValidationError"}:
            lines += _record(name, schemas[name])
    return "\n".join(lines).rstrip() + "\n"


def openapi() -> dict[str, Any]:
    """The document of a server over an empty workspace."""
    import asyncio

    from tunesmith.server.app import create_app
    from tunesmith.server.lifecycle import Lifecycle
    from tunesmith.settings import load_settings
    from tunesmith.workspace import open_workspace

    async def make(home: Path) -> dict[str, Any]:
        services = open_workspace(load_settings(home))
        try:
            return create_app(services, Lifecycle("http://127.0.0.1:8787")).openapi()
        finally:
            services.close()

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(make(Path(folder)))


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"### {method} `{path}`", "", operation.get("description") or operation.get("summary", ""), "")
    parameters = operation.get("parameters", [])
    if parameters:
        yield from ("| parameter | in | type | |", "| --- | --- | --- | --- |")
        for one in parameters:
            schema = one.get("schema", {})
            words = _cell(one.get("description", "") + _bounds(schema))
            required = ", required" if one.get("required") and one["in"] != "path" else ""
            yield f"| `{one['name']}` | {one['in']}{required} | {_cell(_type(schema))} | {words} |"
        yield ""
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        schema = content.get("schema")
        if schema and ("$ref" in schema or "anyOf" in schema):
            yield from (f"Body: {_type(schema)}", "")
        elif schema and schema.get("properties"):
            yield from ("Body:", "")
            yield from _fields(schema)
        else:
            yield from (f"Body: `{kind}`", "")
    for status, answer in operation.get("responses", {}).items():
        if status == "422":
            continue
        content = answer.get("content", {})
        shown = [_type(one["schema"]) if one.get("schema") else f"`{kind}`" for kind, one in content.items()]
        yield from (f"Answer: {status}{', ' + ', '.join(shown) if shown else ''}", "")


def _record(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"### {name}", "", " ".join((schema.get("description") or "").split()), "")
    if "enum" in schema:
        yield from (", ".join(f"`{value}`" for value in schema["enum"]), "")
    elif schema.get("properties"):
        yield from _fields(schema)


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    required = set(schema.get("required", ()))
    yield from ("| field | type | |", "| --- | --- | --- |")
    for name, one in schema["properties"].items():
        words = ("required. " if name in required else "") + (one.get("description") or "") + _bounds(one)
        yield f"| `{name}` | {_cell(_type(one))} | {_cell(words)} |"
    yield ""


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"mapping to {_type(schema['additionalProperties'])}"
    kind = str(schema.get("type", "any"))
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _bounds(schema: Mapping[str, Any]) -> str:
    parts = []
    if schema.get("default") not in (None, [], {}, ""):
        parts.append(f"default `{json.dumps(schema['default'])}`")
    for key, words in (("minimum", "at least"), ("maximum", "at most")):
        if key in schema:
            parts.append(f"{words} {schema[key]:g}")
    return f" ({', '.join(parts)})" if parts else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
