"""Rules for names that become parts of paths, and for paths that come from outside.

A name that passes can be joined to a folder safely: it has no separator, is not ``.`` or ``..`` and is not hidden.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tunesmith.errors import ValidationFailed


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern and its words."""

    what: str
    pattern: re.Pattern[str]
    words: str

    def admits(self, text: str) -> bool:
        """Whether ``text`` keeps the rule."""
        return self.pattern.fullmatch(text) is not None

    def check(self, text: str, target: str | None = None) -> str:
        """``text`` itself.

        Raises:
            ValidationFailed: naming the text and the rule.
        """
        if not isinstance(text, str) or not self.admits(text):
            raise ValidationFailed(
                f"{str(text)[:80]!r} is not a {self.what}", target=target, way_out=f"{self.what}: {self.words}"
            )
        return text


ASSET_NAME = Rule(
    "name of an asset",
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"),
    "1 to 255 letters, digits, '.', '_' or '-'; the first is a letter or a digit",
)
ASSET_VERSION = Rule(
    "version",
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}"),
    "1 to 100 letters, digits, '.', '_', '+', '~' or '-'; the first is a letter or a digit",
)
LABEL = Rule(
    "label",
    re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}"),
    "1 to 64 letters, digits, '.', '_' or '-'; the first is a letter",
)
REGISTRY_NAME = Rule(
    "name of a registry",
    re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{1,32}"),
    "2 to 33 letters, digits, '_' or '-'; the first is a letter or a digit",
)
COMPUTE_NAME = Rule(
    "name of a compute",
    re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{1,22}[A-Za-z0-9])"),
    "3 to 24 letters, digits or '-'; the first is a letter, the last is no '-'",
)
JOB_NAME = Rule(
    "name of a job",
    re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}"),
    "1 to 255 letters, digits, '_' or '-'; the first is a letter or a digit",
)
PORT_NAME = Rule(
    "name of an input, output or step",
    re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}"),
    "letters, digits and '_'; the first is no digit",
)
ENDPOINT_NAME = Rule(
    "name of an endpoint",
    re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{1,30}[A-Za-z0-9])"),
    "3 to 32 letters, digits or '-'; the first is a letter, the last is no '-'",
)
DEPLOYMENT_NAME = Rule(
    "name of a deployment",
    re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{1,30}[A-Za-z0-9])"),
    "3 to 32 letters, digits or '-'; the first is a letter, the last is no '-'",
)
PLAIN_NAME = Rule(
    "plain name",
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~-]{0,254}"),
    "1 to 255 letters, digits, '.', '_', '+', '~' or '-'; the first is a letter, a digit or '_'",
)
"""What every part of a path in the workspace keeps; the other rules are narrower."""


def check_relative(relative: str, *, target: str | None = None) -> str:
    """``relative`` itself, when joining it to a folder cannot leave the folder (links apart).

    Raises:
        ValidationFailed: an absolute path, ``..``, a backslash or a NUL.
    """
    if "\0" in relative or "\\" in relative or relative.startswith("/") or ".." in PurePosixPath(relative).parts:
        raise ValidationFailed(
            f"the path {relative[:200]!r} may leave its folder",
            target=target,
            way_out="give a path relative to the folder, with '/' between its parts and without '..'",
        )
    return relative


def safe_join(root: Path, relative: str, *, target: str | None = None) -> Path:
    """The path ``relative`` below ``root``, where ``relative`` comes from outside.

    An empty text is ``root`` itself. Links are followed, and what they lead to must lie below ``root`` as well.

    Raises:
        ValidationFailed: see ``check_relative``; or a link leads out.
    """
    joined = root.joinpath(*PurePosixPath(check_relative(relative, target=target)).parts)
    if not joined.resolve().is_relative_to(root.resolve()):
        raise ValidationFailed(
            f"the path {relative[:200]!r} is a link that leaves its folder",
            target=target,
            way_out="replace the link by the file it leads to",
        )
    return joined
