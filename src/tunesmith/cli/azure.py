"""``tunesmith azure``: Azure ML's own SDK, pointed at this workspace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from tunesmith.cli.context import connect, options
from tunesmith.cli.hoisting import RUN_OPTIONS
from tunesmith.cli.output import emit, table
from tunesmith.errors import NotFound, UserError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

PROBE = """
import importlib.metadata, importlib.util, json, sys
def place(name):
    try:
        return importlib.import_module(name).where()
    except ImportError:
        return None
def has(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
print(json.dumps({"certifi": place("certifi"), "missing": [n for n in sys.argv[1:] if not has(n)]}))
"""
"""Asks the user's Python what it trusts and what it has."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The user's Python."""

    path: str
    certifi: str | None
    """Its bundle of authorities."""
    missing: list[str]
    """Modules that were asked for and are not there."""


class RunCommand(TyperCommand):
    """Everything after the script, or after ``--``, belongs to what is run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Part our own options from what is run."""
        own, rest, dashes = part(args)
        ctx.meta["tunesmith.rest"], ctx.meta["tunesmith.dashes"] = rest, dashes
        return super().parse_args(ctx, own)


def part(args: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """Our own options, what is run with its arguments, and whether ``--`` stood between them.

    After ``-m MODULE`` everything belongs to the module.
    """
    index = 0
    while index < len(args):
        item = args[index]
        if item == "--":
            return list(args[:index]), list(args[index + 1 :]), True
        if not item.startswith("-") or item == "-":
            break
        name = item.split("=", 1)[0]
        takes_next = RUN_OPTIONS.get(name, False) and "=" not in item
        index += 2 if takes_next else 1
        if name in {"-m", "--module"}:
            break
    return list(args[:index]), list(args[index:]), False


@app.command(
    cls=RunCommand,
    epilog="SCRIPT [ARGS…], -m MODULE [ARGS…], or -- COMMAND [ARGS…].",
    options_metavar="[OPTIONS] SCRIPT [ARGS...] | -m MODULE [ARGS...] | -- COMMAND [ARGS...]",
)
def run(
    ctx: typer.Context,
    module: Annotated[
        str | None, typer.Option("-m", "--module", help="Run a module, as python -m does.", show_default=False)
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(help="The Python that azure-ai-ml is installed in. Default: python on PATH.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where a notebook with its outputs is written. Default: a new file in the workspace, which is named.",
            show_default=False,
        ),
    ] = None,
    no_proxy: Annotated[
        bool, typer.Option("--no-proxy", help="Point the SDK here by a cloud of its own instead of by a proxy.")
    ] = False,
) -> None:
    """Run a script, a module, a notebook (.ipynb) or any command against this workspace instead of Azure.

    The program is yours and runs in your own Python; its environment leads Azure ML's SDK here, for this one process.
    """
    rest: list[str] = ctx.meta["tunesmith.rest"]
    dashes: bool = ctx.meta["tunesmith.dashes"]
    if module is None and not rest:
        raise UserError(
            "nothing to run is named",
            target="SCRIPT",
            way_out="tunesmith azure run SCRIPT, or -m MODULE, or -- COMMAND",
        )
    if dashes and module is None:
        if output is not None:
            raise UserError("a command has no notebook to write", target="--output")
        program = _program(rest[0])
        _execute([program, *rest[1:]], _variables(no_proxy=no_proxy, certifi=_certifi(python)))
    notebook = module is None and rest[0].endswith(".ipynb")
    if output is not None and not notebook:
        raise UserError("only a notebook (.ipynb) is written with its outputs", target="--output")
    if module is None and not Path(rest[0]).is_file():
        raise NotFound(
            f"there is no script {rest[0]!r}",
            target="SCRIPT",
            way_out="give its path; a command of another kind stands after two dashes: tunesmith azure run -- COMMAND",
        )
    interpreter = _interpreter(python, ["azure.ai.ml", *(["nbformat", "nbclient", "ipykernel"] if notebook else [])])
    lacking = [name for name in interpreter.missing if name != "azure.ai.ml"]
    if lacking:
        raise UserError(
            f"{interpreter.path} has no {' and no '.join(lacking)}, which run a notebook",
            target="--python",
            way_out=f"{interpreter.path} -m pip install nbclient ipykernel; or name another Python with --python",
        )
    if interpreter.missing:
        _note(
            f"{interpreter.path} has no azure-ai-ml. If the script needs it: {interpreter.path} -m pip install "
            "azure-ai-ml azure-identity; or name another Python with --python."
        )
    variables = _variables(no_proxy=no_proxy, certifi=interpreter.certifi)
    if module is not None:
        _execute([interpreter.path, "-m", module, *rest], variables)
    if not notebook:
        _execute([interpreter.path, *rest], variables)
    if len(rest) > 1:
        raise UserError("a notebook takes no arguments", target=rest[1])
    from tunesmith.azure.environment import SHADOW

    target = output.absolute() if output is not None else _notebook_target(Path(rest[0]))
    _execute([interpreter.path, str(SHADOW / "run_notebook.py"), rest[0], str(target)], variables)


@app.command()
def env(
    shell: Annotated[
        Literal["sh", "fish", "powershell", "json"], typer.Option(help="The language of the lines.")
    ] = "sh",
    python: Annotated[
        str | None, typer.Option(help="The Python whose authorities stay trusted. Default: python on PATH.")
    ] = None,
    no_proxy: Annotated[
        bool, typer.Option("--no-proxy", help="Point the SDK here by a cloud of its own instead of by a proxy.")
    ] = False,
) -> None:
    """Print the variables that point Azure ML's SDK here, for a shell or a notebook's kernel.

    In a shell: eval "$(tunesmith azure env)". The lines hold secrets of the workspace.
    """
    from tunesmith.azure.environment import exports

    variables = _variables(no_proxy=no_proxy, certifi=_certifi(python))
    print(exports(variables, "json" if options.json else shell), end="")


@app.command()
def status() -> None:
    """Show how the workspace is reached by Azure's protocol, and what came through so far."""
    session = connect().azure.session()
    if options.json:
        emit(session.model_dump(mode="json", exclude={"proxy_password", "identity_header"}))
        return
    rows: list[tuple[str, object]] = [
        ("proxy", f"127.0.0.1:{session.proxy_port}"),
        ("without a proxy", f"https://localhost:{session.direct_port}"),
        ("certificate", session.certificate),
        ("hosts answered here", ", ".join(session.caught)),
        *((f"connections: {kind}", count) for kind, count in sorted(session.connections.items())),
        *((f"telemetry thrown away: {host}", count) for host, count in sorted(session.telemetry.items())),
    ]
    table(None, ("", ""), rows, empty="")


def _variables(*, no_proxy: bool, certifi: str | None = None) -> dict[str, str | None]:
    from tunesmith.azure.environment import dropped_exceptions

    azure = connect().azure
    changes = azure.environment(proxy=not no_proxy, certifi=certifi)
    if not no_proxy and (dropped := dropped_exceptions(azure.session(), os.environ)):
        _note(
            f"NO_PROXY names {', '.join(dropped)}, which would lead round the workspace to the real Azure: "
            "it does not count for this command."
        )
    return changes


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise NotFound(f"there is no command {name!r}", target=name, way_out="give its path")
    return path


def _execute(command: Sequence[str], changes: dict[str, str | None]) -> None:
    """Become the command, whose program is a path: its exit code and its signals are ours."""
    from tunesmith.azure.environment import apply

    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], list(command), apply(changes, os.environ))


def _find_python() -> str | None:
    return shutil.which("python") or shutil.which("python3")


def _interpreter(named: str | None, modules: Sequence[str]) -> Interpreter:
    path = shutil.which(named) if named else _find_python()
    if path is None:
        raise NotFound(
            f"there is no Python {named!r}" if named else "there is no python on PATH",
            target="--python",
            way_out="name the Python that azure-ai-ml is installed in: --python PATH",
        )
    asked = subprocess.run([path, "-c", PROBE, *modules], capture_output=True, text=True, check=False)
    try:
        answer = json.loads(asked.stdout)
    except ValueError:
        last = (asked.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(f"{path} is no Python that works: {last}", target="--python") from None
    return Interpreter(path, answer["certifi"], answer["missing"])


def _certifi(named: str | None) -> str | None:
    """The bundle of authorities of the user's Python, where there is one."""
    return _interpreter(named, []).certifi if named or _find_python() else None


def _notebook_target(source: Path) -> Path:
    """A new file in the workspace."""
    folder = Path(connect().azure.session().folder) / "notebooks"
    number = 1
    while (target := folder / f"{source.stem}-{number}.ipynb").exists():
        number += 1
    return target


def _note(text: str) -> None:
    print(f"Note: {text}", file=sys.stderr)
