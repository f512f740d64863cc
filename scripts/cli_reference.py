"""Writes the reference of the command line from the command tree itself."""

from __future__ import annotations

import re
from typing import Any

TARGET = "docs/reference/cli.md"


def render() -> str:
    """The page as Markdown."""
    import typer.main

    from tunesmith.cli.app import app

    root = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Made from the commands themselves by `make docs`; a test keeps it true.",
        "",
        "Global options may stand before or after the command. Exit codes: 0 done, 1 the work failed, 2 a mistake in",
        "the input or the call, 130 interrupted. With `--json` standard output is JSON alone.",
        "",
    ]
    lines += _section(root, "tunesmith", 2)
    return "\n".join(lines).rstrip() + "\n"


def _section(command: Any, path: str, level: int) -> list[str]:
    lines = [f"{'#' * level} `{path}`", "", re.sub(r"\s+", " ", command.help or "").strip(), ""]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
    subcommands: dict[str, Any] = getattr(command, "commands", {})
    if not subcommands:
        words = " ".join(_argument(a) for a in arguments)
        lines += ["```", f"{path} {words}".strip() + (" [OPTIONS]" if options else ""), "```", ""]
    if arguments or options:
        lines += ["| | | default |", "| --- | --- | --- |"]
        lines += [f"| `{_argument(a)}` | {_cell(getattr(a, 'help', '') or '')} | |" for a in arguments]
        for option in options:
            names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
            lines.append(f"| {names} | {_cell(option.help or '')} | {_default(option)} |")
        lines.append("")
    for name, sub in subcommands.items():
        lines += _section(sub, f"{path} {name}", min(level + 1, 4))
    return lines


def _argument(argument: Any) -> str:
    name = argument.name.upper().rstrip("_")
    name += "..." if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def _default(option: Any) -> str:
    value = option.default
    if option.required:
        return "required"
    if value is None or value is False or value == [] or value == () or value == "" or callable(value):
        return ""
    if "Sentinel" in type(value).__name__ or "UNSET" in str(value).upper():
        return ""
    return f"`{value}`"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()
