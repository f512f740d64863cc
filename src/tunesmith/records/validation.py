"""Turns pydantic's complaints into the product's own: every field named, with what is wrong and the way out."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tunesmith.errors import Fault, ValidationFailed

R = TypeVar("R", bound=BaseModel)


def parse(model: type[R], body: Any, *, what: str = "request") -> R:
    """Validate ``body`` as ``model``.

    Raises:
        ValidationFailed: with one fault for each field that is wrong, missing or unknown.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise validation_failed(error.errors(), model=model, what=what) from None


def validation_failed(
    errors: Iterable[Mapping[str, Any]], *, model: type[BaseModel] | None = None, what: str = "request"
) -> ValidationFailed:
    """The error for pydantic's ``errors`` over a body of type ``model``."""
    faults = [_fault(error, model) for error in errors]
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return ValidationFailed(f"the {what} has {count}", details=faults)


def _fault(error: Mapping[str, Any], model: type[BaseModel] | None) -> Fault:
    location = tuple(error.get("loc", ()))
    kind = str(error.get("type", ""))
    target = dotted(location) or None
    if kind == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        way_out = f"did you mean {close[0]!r}?" if close else (f"known fields: {', '.join(known)}" if known else None)
        return Fault(f"unknown field {str(location[-1])!r}", target=target, code="UnknownField", way_out=way_out)
    if kind == "missing":
        return Fault("is required", target=target, code="Required")
    if kind == "json_invalid":
        return Fault(f"is not JSON: {error.get('ctx', {}).get('error', error.get('msg', ''))}", target=target)
    message = str(error.get("msg", "is invalid"))
    return Fault(f"{message[:1].lower()}{message[1:]}, got {_short(error.get('input'))}", target=target)


def dotted(location: Sequence[Any]) -> str:
    """``("traffic", "blue", 0)`` as ``traffic.blue[0]``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text


def _fields_at(model: type[BaseModel] | None, location: Sequence[Any]) -> list[str]:
    """The names of the fields of the model found by following ``location`` from ``model``."""
    for part in location:
        if model is None:
            return []
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        model = next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return list(model.model_fields) if model else []


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
