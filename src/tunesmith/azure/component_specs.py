"""A component's YAML in two dialects: ours (Azure ML's YAML schema), and the one that travels as ``componentSpec``.

On the wire a node of a pipeline names ``componentId`` and ``computeId``, its inputs are ``{"job_input_type", "value"}``
and its outputs ``{"type", "value"}``; all else is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.azure.arm import short_reference
from tunesmith.errors import ValidationFailed
from tunesmith.records.assets import SYSTEM_REGISTRY, ComponentVersion
from tunesmith.workspace import INSTALLED_ENVIRONMENT

CODE_PROPERTY = "azureml.codeId"
"""The code asset whose files a registered component was made of: what a client gets back as its ``code``."""
ENVIRONMENT_PROPERTY = "azureml.environmentId"
HASH_PROPERTY = "client_component_hash"
"""The client's own hash, by which it finds that nothing changed."""
ANONYMOUS_PROPERTY = "azureml.isAnonymous"
OWN_PROPERTIES = (CODE_PROPERTY, ENVIRONMENT_PROPERTY, ANONYMOUS_PROPERTY)
"""Kept with the component, not shown as its properties."""


def kept_properties(record: ComponentVersion) -> dict[str, str]:
    """The properties of a component, those of ours among them. They stand in its spec."""
    return {str(key): str(value) for key, value in (record.spec.get("properties") or {}).items()}


def to_wire(record: ComponentVersion, component_id: Any) -> dict[str, Any]:
    """The ``componentSpec`` of a component.

    Args:
        record: the component.
        component_id: makes an id on the wire of a reference.
    """
    spec = {
        key: value for key, value in record.spec.items() if key not in {"jobs", "code", "environment", "properties"}
    }
    spec["name"], spec["version"] = record.name, record.version
    spec["display_name"] = record.display_name or record.name
    if record.type == "pipeline":
        nodes = record.spec.get("jobs") or {}
        spec["jobs"] = {str(name): _node_to_wire(str(name), node, component_id) for name, node in nodes.items()}
        return spec
    kept = kept_properties(record)
    if CODE_PROPERTY in kept:
        spec["code"] = component_id(kept[CODE_PROPERTY])
    if ENVIRONMENT_PROPERTY in kept:
        spec["environment"] = component_id(kept[ENVIRONMENT_PROPERTY])
    elif isinstance(record.spec.get("environment"), str):
        spec["environment"] = record.spec["environment"]
    else:
        # Clients load no command component without one.
        spec["environment"] = (
            f"azureml://registries/{SYSTEM_REGISTRY}/environments/{INSTALLED_ENVIRONMENT}/labels/latest"
        )
    return spec


def from_wire(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Our spec of a ``componentSpec``. ``code`` and ``environment`` stay the ids that they are.

    Raises:
        ValidationFailed: a node is no object, or names no component.
    """
    found = {str(key): value for key, value in spec.items() if not str(key).startswith("_") and value is not None}
    found.pop("creation_context", None)
    found.pop("id", None)
    if isinstance(found.get("jobs"), Mapping):
        found["jobs"] = {str(name): _node_from_wire(str(name), node) for name, node in found["jobs"].items()}
    return found


def _node_to_wire(name: str, node: Mapping[str, Any], component_id: Any) -> dict[str, Any]:
    wire = {key: value for key, value in node.items() if key not in {"component", "compute", "inputs", "outputs"}}
    component = node.get("component")
    wire["componentId"] = component_id(component) if isinstance(component, str) else ""
    wire["type"] = node.get("type", "command")
    wire["name"] = name
    if node.get("compute"):
        wire["computeId"] = node["compute"]
    wire["inputs"] = {key: _input_to_wire(value) for key, value in (node.get("inputs") or {}).items()}
    wire["outputs"] = {
        key: {"type": "literal", "value": value} for key, value in (node.get("outputs") or {}).items() if value
    }
    return wire


def _input_to_wire(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        found = {"job_input_type": value.get("type", "uri_folder"), "uri": value.get("path")}
        return {**found, "mode": value["mode"]} if value.get("mode") else found
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return {"job_input_type": "literal", "value": text}


def _node_from_wire(name: str, node: Any) -> dict[str, Any]:
    place = f"componentSpec.jobs.{name}"
    if not isinstance(node, Mapping):
        raise ValidationFailed("a node must be an object", target=place)
    # A component that was just made has its nodes in the YAML's own form where they name no registered component.
    reference = node.get("componentId") or node.get("component")
    if not isinstance(reference, str | Mapping) or not reference:
        raise ValidationFailed("a node must name its component", target=f"{place}.componentId")
    dropped = {"componentId", "component", "computeId", "inputs", "outputs", "name"}
    found = {
        str(key): value
        for key, value in node.items()
        if key not in dropped and not str(key).startswith("_") and value not in (None, {}, [])
    }
    found["component"] = short_reference(reference) if isinstance(reference, str) else from_wire(reference)
    if node.get("computeId"):
        found["compute"] = short_reference(str(node["computeId"]))
    found["inputs"] = {key: _input_from_wire(value) for key, value in (node.get("inputs") or {}).items()}
    found["outputs"] = {
        key: value["value"]
        for key, value in (node.get("outputs") or {}).items()
        if isinstance(value, Mapping) and isinstance(value.get("value"), str)
    }
    return found


def _input_from_wire(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    kind = str(value.get("job_input_type", "literal"))
    if kind == "literal":
        return value.get("value")
    found = {"type": kind, "path": short_reference(str(value.get("uri") or ""))}
    return {**found, "mode": value["mode"]} if value.get("mode") else found
