"""Leaves out of the command tree what a command line does not name: describing every command takes longer than most."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

_COMPLETING = "_TUNESMITH_COMPLETE"
"""Set by the shell when it asks for completions, for which the whole tree is wanted."""


@contextmanager
def trimmed(app: typer.Typer, arguments: Sequence[str]) -> Iterator[None]:
    """Within it, groups whose name is not in ``arguments`` have no commands; their names and help stay."""
    groups = [] if _COMPLETING in os.environ else [one for one in app.registered_groups if one.name not in arguments]
    whole = [group.typer_instance for group in groups]
    for group in groups:
        group.typer_instance = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    try:
        yield
    finally:
        for group, instance in zip(groups, whole, strict=True):
            group.typer_instance = instance
