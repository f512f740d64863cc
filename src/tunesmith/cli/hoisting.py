"""Moves the global options to the front, so that they may be given after a command too."""

from __future__ import annotations

from collections.abc import Sequence

GLOBAL_FLAGS = {"--json", "--debug"}
GLOBAL_OPTIONS = {"--workspace", "--url", "--token"}
RUN_OPTIONS = {"-m": True, "--module": True, "--python": True, "--output": True, "--no-proxy": False, "--help": False}
"""Of ``tunesmith azure run``, and whether a value follows. What comes after them belongs to the program that is run."""


def hoist(arguments: Sequence[str]) -> list[str]:
    """The arguments with the global options in front.

    Everything after ``--``, and everything that ``azure run`` hands on to a program, stays as it is.
    """
    front: list[str] = []
    rest: list[str] = []
    items = list(arguments)
    index = 0
    while index < len(items):
        item = items[index]
        name = item.split("=", 1)[0]
        if item == "--":
            rest += items[index:]
            break
        if item in GLOBAL_FLAGS:
            front.append(item)
        elif item in GLOBAL_OPTIONS and index + 1 < len(items):
            front += [item, items[index + 1]]
            index += 1
        elif name in GLOBAL_OPTIONS and "=" in item:
            front += item.split("=", 1)
        elif rest[:2] == ["azure", "run"]:
            if name not in RUN_OPTIONS:
                rest += items[index:]
                break
            rest.append(item)
            if RUN_OPTIONS[name] and "=" not in item and index + 1 < len(items):
                index += 1
                rest.append(items[index])
            if name in {"-m", "--module"}:
                rest += items[index + 1 :]
                break
        else:
            rest.append(item)
        index += 1
    return front + rest
