"""Reading ``key=value`` options and files of the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunesmith.errors import InvalidData, NotFound, UserError


def pairs(items: Iterable[str], option: str) -> dict[str, str]:
    """``["a=1", "b=x"]`` as a mapping; ``option`` names the option in the error."""
    result: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UserError(f"'{item}' is not of the form key=value", target=option, way_out=f"{option} key=value")
        result[key.strip()] = value
    return result


def traffic(text: str) -> dict[str, int]:
    """``blue=90,green=10`` as a mapping of whole per cent."""
    result: dict[str, int] = {}
    for key, value in pairs([part for part in text.split(",") if part.strip()], "--traffic").items():
        try:
            result[key] = int(value)
        except ValueError:
            raise UserError(
                f"'{value}' is not a whole number of per cent",
                target=f"traffic.{key}",
                way_out="--traffic blue=90,green=10",
            ) from None
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML or JSON file that holds one mapping."""
    import yaml

    if not path.exists():
        raise NotFound(f"there is no file {path}", target=str(path))
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidData(f"not UTF-8 text: {error}", target=str(path), way_out="save the file as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error)
        raise InvalidData(f"not valid YAML: {problem}", target=place) from error
    if not isinstance(value, dict):
        raise InvalidData("holds no mapping (key: value lines)", target=str(path))
    return value


def read_json(path: Path) -> Any:
    """A JSON file, or standard input for ``-``."""
    import sys

    text = sys.stdin.read() if str(path) == "-" else _text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidData(f"not valid JSON: {error.msg}", target=f"{path}:{error.lineno}") from error


def _text(path: Path) -> str:
    if not path.exists():
        raise NotFound(f"there is no file {path}", target=str(path))
    return path.read_text(encoding="utf-8")


def reference(text: str) -> tuple[str, str | None, str | None]:
    """``NAME``, ``NAME:VERSION`` or ``NAME@LABEL`` as (name, version, label)."""
    if "@" in text:
        name, label = text.rsplit("@", 1)
        return name, None, label
    if ":" in text:
        name, version = text.split(":", 1)
        return name, version, None
    return text, None, None
