"""The OpenAPI document with the words that the records carry.

A field's meaning stands below it in the source, as a string. Pydantic could read those when each class is made, which
would cost every start a good part of a second; here they are read once, when somebody asks for the document.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from tunesmith.records.base import Record, Request


def add_openapi(app: FastAPI) -> None:
    """Let ``app`` answer ``/openapi.json`` with the described document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            _describe(made["components"]["schemas"])
            _secure(made)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _describe(schemas: dict[str, Any]) -> None:
    modules: dict[str, dict[str, dict[str, str]]] = {}
    for kind in _kinds(Record, Request):
        schema = schemas.get(kind.__name__)
        if schema is None:
            continue
        for base in reversed(kind.__mro__):
            if not issubclass(base, BaseModel) or base is BaseModel:
                continue
            if base.__module__ not in modules:
                modules[base.__module__] = _words(base.__module__)
            for field, words in modules[base.__module__].get(base.__name__, {}).items():
                if field in schema.get("properties", {}):
                    schema["properties"][field]["description"] = words


def _kinds(*roots: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for root in roots:
        yield root
        yield from _kinds(*root.__subclasses__())


def _words(module: str) -> dict[str, dict[str, str]]:
    """The string below each field of each class of a module."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found.setdefault(node.name, {})
        for statement, below in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                fields[statement.target.id] = inspect.cleandoc(below.value.value).replace("``", "`")
    return found


def _secure(document: dict[str, Any]) -> None:
    """Say which key opens which path."""
    document["components"]["securitySchemes"] = {
        "workspace": {"type": "http", "scheme": "bearer", "description": "The workspace's token."},
        "endpoint": {"type": "http", "scheme": "bearer", "description": "A key of the endpoint."},
    }
    for path, methods in document["paths"].items():
        scheme = "workspace" if path.startswith("/api/") else "endpoint" if path.startswith("/endpoints/") else None
        for operation in methods.values():
            if scheme:
                operation["security"] = [{scheme: []}]
