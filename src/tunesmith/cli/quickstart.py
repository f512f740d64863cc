"""``tunesmith quickstart``."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli.context import home


def add_to(app: typer.Typer) -> None:
    """Put the command at the root of ``app``."""
    app.command()(quickstart)


def quickstart(
    cleanup: Annotated[
        bool, typer.Option("--cleanup", help="Remove everything an earlier quickstart made, and show what was freed.")
    ] = False,
    conversations: Annotated[
        int | None,
        typer.Option(help="Training conversations; by this machine's speed, 32 to 60, without it.", min=16, max=2000),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Longest training time.", min=0.1)] = 2.5,
    force_rerun: Annotated[bool, typer.Option("--force-rerun", help="Reuse no step of an earlier run.")] = False,
) -> None:
    """Run the whole life cycle on real weights: import, fine-tune, evaluate, register, deploy, call."""
    from tunesmith.quickstart import Quickstart
    from tunesmith.quickstart import cleanup as remove

    if cleanup:
        remove(home())
        return
    Quickstart(home(), conversations=conversations, minutes=minutes, force_rerun=force_rerun).run()
