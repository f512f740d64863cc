"""What of a named environment a step does not get: steps run in the environment that is installed, none is built.

Knows Azure ML's words in both spellings: ``image``, ``conda_file`` and ``condaFile``, ``build``.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import yaml


def python_lines() -> list[str]:
    """Which Python a step finds first, and what it does not reach."""
    return [
        f"python is {sys.executable} ({platform.python_version()}), the one that Tunesmith runs in",
        "Hugging Face's libraries stay offline (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE, HF_DATASETS_OFFLINE are 1), "
        "unless the component's property network is true or environment_variables say otherwise",
    ]


def differences(name: str, spec: Mapping[str, Any] | None) -> list[str]:
    """What differs between an environment and what is installed, a line each.

    Args:
        name: what the step calls it.
        spec: its definition, where the workspace has one.
    """
    if spec is None:
        return [f"the environment {name} is recorded and not built; the workspace does not know what is in it"]
    lines = [f"the environment {name} is recorded and not built"]
    if spec.get("image"):
        lines.append(f"its image {spec['image']} is not used: steps are processes of this machine")
    if spec.get("build"):
        lines.append("its Docker build is not run: steps are processes of this machine")
    wanted, unread = _requirements(spec.get("conda_file") or spec.get("condaFile") or spec.get("conda"))
    if unread:
        lines.append(f"its packages are not known: {unread}")
    found = [said for requirement in wanted if (said := _difference(requirement)) is not None]
    if found:
        lines.append(f"of its {len(wanted)} packages {len(found)} differ here: {'; '.join(found)}")
    elif wanted:
        lines.append(f"its {len(wanted)} packages are installed here in versions that fit")
    return lines


def _requirements(conda: Any) -> tuple[list[str], str | None]:
    """The requirements of a conda file, and why they could not be read."""
    if conda is None:
        return [], None
    if isinstance(conda, str):
        if "\n" not in conda and ":" not in conda:
            return [], f"the file {conda} is not read"
        try:
            conda = yaml.safe_load(conda)
        except yaml.YAMLError:
            return [], "the conda file is no YAML"
    if not isinstance(conda, Mapping):
        return [], "the conda file is no mapping"
    return list(_of_conda(conda.get("dependencies") or [])), None


def _of_conda(dependencies: Any) -> Iterator[str]:
    for entry in dependencies if isinstance(dependencies, list) else []:
        if isinstance(entry, Mapping):
            for requirement in entry.get("pip") or []:
                text = str(requirement).strip()
                if text and not text.startswith(("-", "#")):
                    yield text
        elif isinstance(entry, str):
            name, _, version = entry.strip().partition("=")
            if version and not version.startswith("=") and not set("<>!~").intersection(name):
                yield f"{name.strip()}=={version.partition('=')[0].strip()}.*"
            else:
                yield entry.strip()


def _difference(text: str) -> str | None:
    """How a requirement differs from what is installed; ``None`` where it is met."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return f"{text[:100]} (not understood)"
    name = requirement.name.lower()
    if name == "pip":
        return None
    if name == "python":
        here = platform.python_version()
        return None if requirement.specifier.contains(here) else f"{text} (Python {here} is here)"
    if requirement.marker is not None and not requirement.marker.evaluate():
        return None
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{text} (not installed)"
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return f"{text} ({installed} is installed)"
