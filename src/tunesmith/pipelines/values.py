"""Literal values of inputs: from what a caller sends to the one text a step gets.

Azure ML's clients send every literal as text made by Python's ``str`` (``5e-06``, ``True``); the command line and
JSON callers send numbers and booleans. Both become the same text here, so that a step's command line and its content
key do not depend on who submitted it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.pipelines.schema import InputSpec

LITERAL_TYPES = ("string", "integer", "number", "boolean")
PATH_TYPES = ("uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model")
MODEL_TYPES = ("mlflow_model", "custom_model", "triton_model")


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A way out that names the closest of ``known``, or ``None`` when nothing is close."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:
        lowered = {candidate.lower(): candidate for candidate in names}
        close = [lowered[match] for match in difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)]
    return f"did you mean {close[0]!r}?" if close else None


def canonical(spec: InputSpec, value: Any) -> str:
    """The text of a literal ``value`` for the input ``spec``.

    Raises:
        ValueError: the value is not of the type, not in the enum, or out of bounds; the message says which.
    """
    text = _CANONICAL[spec.type](value)
    if spec.enum:
        allowed = [_CANONICAL[spec.type](option) for option in spec.enum]
        if text in ("True", "False") and text.lower() in allowed:
            text = text.lower()  # Azure ML's clients send Python's str(True)
        if text not in allowed:
            hint = did_you_mean(text, allowed)
            raise ValueError(f"must be one of {', '.join(allowed)}, got {show(value)}" + (f"; {hint}" if hint else ""))
    if spec.type in ("integer", "number"):
        number = float(text)
        if spec.min is not None and number < spec.min:
            raise ValueError(f"must be at least {spec.min:g}, got {text}")
        if spec.max is not None and number > spec.max:
            raise ValueError(f"must be at most {spec.max:g}, got {text}")
    return text


def show(value: Any) -> str:
    """``value`` for a message: quoted when it is text, cut when it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _string(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return _number(value) if isinstance(value, float) else str(value)
    raise ValueError(f"must be text, got {show(value)}")


def _boolean(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower()
    raise ValueError(f"must be true or false, got {show(value)}")


def _integer(value: Any) -> str:
    if not isinstance(value, bool):
        if isinstance(value, int):
            return str(value)
        if isinstance(value, str):
            try:
                return str(int(value.strip()))
            except ValueError:
                pass
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number) and number == int(number):
            return str(int(number))
    raise ValueError(f"must be a whole number, got {show(value)}")


def _number(value: Any) -> str:
    if not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"must be a number, got {show(value)}") from None
        if not math.isfinite(number):
            raise ValueError(f"must be a finite number, got {show(value)}")
        return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)
    raise ValueError(f"must be a number, got {show(value)}")


_CANONICAL = {"string": _string, "boolean": _boolean, "integer": _integer, "number": _number}
