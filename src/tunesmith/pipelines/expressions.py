"""Azure ML's expressions: ``${{…}}`` names a value, ``$[[…]]`` encloses a part of a command that may fall away.

    ${{inputs.x}}                     an input of the component (command lines)
    ${{outputs.x}}                    the folder or file an output is written to (command lines)
    ${{name}}                         the name of the job (command lines)
    ${{parent.inputs.x}}              an input of the enclosing pipeline (nodes)
    ${{parent.outputs.x}}             an output of the enclosing pipeline (nodes)
    ${{parent.jobs.step.outputs.x}}   an output of another node
    $[[--flag ${{inputs.x}}]]         left out when a named input has no value

A value is put into a command line as one word: it is quoted for the shell according to the quotes around it, so text
from outside never becomes a command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_NAME = r"[A-Za-z_][A-Za-z0-9_\-]*"
_FORMS = {
    "input": re.compile(rf"inputs\.({_NAME})(?:\.path)?"),
    "output": re.compile(rf"outputs\.({_NAME})(?:\.path)?"),
    "parent_input": re.compile(rf"parent\.inputs\.({_NAME})"),
    "parent_output": re.compile(rf"parent\.outputs\.({_NAME})"),
    "node_output": re.compile(rf"parent\.jobs\.({_NAME})\.outputs\.({_NAME})"),
    "name": re.compile(r"name|parent\.name"),
}


@dataclass(frozen=True, slots=True)
class Expression:
    """One ``${{…}}``.

    ``form`` is ``input``, ``output``, ``parent_input``, ``parent_output``, ``node_output`` or ``name``.
    """

    form: str
    names: tuple[str, ...]
    text: str


class ExpressionError(ValueError):
    """The text between the braces is none of the known forms."""


def parse(inner: str) -> Expression:
    """The expression whose text between the braces is ``inner``.

    Raises:
        ExpressionError: unknown form.
    """
    for form, pattern in _FORMS.items():
        match = pattern.fullmatch(inner)
        if match:
            return Expression(form, match.groups(), f"${{{{{inner}}}}}")
    raise ExpressionError(f"${{{{{inner}}}}} is not an expression that is known here")


def find(text: str) -> list[Expression]:
    """Every expression in ``text``, in order.

    Raises:
        ExpressionError: one of them is malformed, or a brace is left open.
    """
    found = [parse(match.group(1)) for match in _EXPRESSION.finditer(text)]
    if "${{" in _EXPRESSION.sub("", text):
        raise ExpressionError("a ${{ is not closed by }}")
    return found


def whole(text: str) -> Expression | None:
    """The expression that ``text`` consists of, or ``None`` when there is more in it or nothing.

    Raises:
        ExpressionError: it is one, but malformed.
    """
    match = _EXPRESSION.fullmatch(text.strip())
    return parse(match.group(1)) if match else None


def contains(text: str) -> bool:
    """Whether there is any expression in ``text``."""
    return "${{" in text


def substitute(text: str, value: Callable[[Expression], str]) -> str:
    """``text`` with each expression replaced, without quoting (for values, not for command lines)."""
    return _EXPRESSION.sub(lambda match: value(parse(match.group(1))), text)


def required_inputs(command: str) -> set[str]:
    """The inputs that ``command`` names outside ``$[[…]]``: they must have a value."""
    return {e.names[0] for e in find(_OPTIONAL.sub("", command)) if e.form == "input"}


def render_command(command: str, *, inputs: Mapping[str, str | None], outputs: Mapping[str, str], name: str) -> str:
    """The shell command: values in place, each quoted for where it stands; optional parts without a value left out.

    Raises:
        KeyError: an input or output that is not there, or an input outside ``$[[…]]`` without a value.
    """
    kept = _OPTIONAL.sub(lambda match: match.group(1) if _has_values(match.group(1), inputs) else "", command)
    result: list[str] = []
    quotes = _Quotes()
    position = 0
    for match in _EXPRESSION.finditer(kept):
        before = kept[position : match.start()]
        result.append(before)
        quotes.feed(before)
        result.append(quotes.quote(_value(parse(match.group(1)), inputs, outputs, name)))
        position = match.end()
    result.append(kept[position:])
    return "".join(result)


def _has_values(part: str, inputs: Mapping[str, str | None]) -> bool:
    return all(inputs.get(e.names[0]) is not None for e in find(part) if e.form == "input")


def _value(expression: Expression, inputs: Mapping[str, str | None], outputs: Mapping[str, str], name: str) -> str:
    if expression.form == "input":
        value = inputs.get(expression.names[0])
        if value is None:
            raise KeyError(f"the command needs a value for the input {expression.names[0]!r}")
        return value
    if expression.form == "output":
        if expression.names[0] not in outputs:
            raise KeyError(f"the command names an output {expression.names[0]!r} that is not declared")
        return outputs[expression.names[0]]
    if expression.form == "name":
        return name
    raise KeyError(f"{expression.text} has no meaning in a command line")


class _Quotes:
    """Follows a shell command to know in which quotes the next character stands."""

    def __init__(self) -> None:
        self._inside: str | None = None

    def feed(self, text: str) -> None:
        characters: Iterator[str] = iter(text)
        for character in characters:
            if self._inside == "'":
                if character == "'":
                    self._inside = None
            elif character == "\\":
                next(characters, None)
            elif character == '"':
                self._inside = None if self._inside == '"' else '"'
            elif character == "'" and self._inside is None:
                self._inside = "'"

    def quote(self, value: str) -> str:
        if "\0" in value:
            raise KeyError("a value with a NUL cannot be put into a command line")
        if self._inside == "'":
            return value.replace("'", "'\\''")
        if self._inside == '"':
            return re.sub(r'([\\"$`])', r"\\\1", value)
        return shlex.quote(value)
