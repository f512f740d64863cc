"""Bodies in the OpenAPI page.
 The routes read their bodies themselves (early refusal of large ones, our own errors), so their schemas are added by
hand here.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def describe_body(model: type[BaseModel] | None) -> dict[str, Any]:
    """The ``requestBody`` of an operation, and the endpoint's key; without ``model`` only the key."""
    described: dict[str, Any] = {
        "security": [{"EndpointKey": []}],
        "parameters": [
            {"name": "endpoint", "in": "path", "required": True, "schema": {"type": "string"}},
            {
                "name": "azureml-model-deployment",
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "description": "Go to this deployment, whatever the traffic split.",
            },
        ],
    }
    if model is not None:
        schema = model.model_json_schema()
        parts = schema.pop("$defs", {})
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _inline(schema, parts)}},
        }
    return described


def _inline(value: Any, parts: dict[str, Any]) -> Any:
    """``value`` with every reference into ``parts`` replaced; OpenAPI resolves references from its own root."""
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            return _inline(parts[reference.rpartition("/")[2]], parts)
        return {key: _inline(inner, parts) for key, inner in value.items()}
    if isinstance(value, list):
        return [_inline(inner, parts) for inner in value]
    return value
