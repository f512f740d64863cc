"""Reads the YAML files that a caller hands over: jobs, components, endpoints, deployments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import NotFound, UserError


def read_spec(spec: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    """A specification as a mapping, and the folder that its relative paths start from.

    ``spec`` is the path of a YAML (or JSON) file, or the mapping itself. Azure ML's ``$schema`` line is left out: it
    names an editor's help.

    Raises:
        NotFound: there is no such file.
        UserError: it is not YAML, or not a mapping.
    """
    if isinstance(spec, Mapping):
        body, base = dict(spec), Path.cwd()
    else:
        path = Path(spec).expanduser().absolute()
        body, base = _load(path), path.parent
    body.pop("$schema", None)
    return body, base


def _load(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise NotFound(f"there is no file {path}", target=str(path), way_out="check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8: {error}", target=str(path)) from None
    try:
        body = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"not YAML: {error.problem}", target=f"{path}{line}") from None
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {error}", target=str(path)) from None
    if not isinstance(body, dict):
        raise UserError(f"holds {type(body).__name__}, not a mapping of fields", target=str(path))
    return body
