"""A chat template: Jinja text that turns messages into the text a model was trained on.

The environment is the one that model authors write their templates for: Hugging Face transformers' (sandboxed and
immutable, ``trim_blocks``, ``lstrip_blocks``, ``break`` and ``continue``, a ``tojson`` that does not escape HTML,
``raise_exception``, ``strftime_now``, the ``{% generation %}`` block). A template comes from outside, so it runs in
Jinja's sandbox and sees plain data only.

Knows nothing of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunesmith.errors import InvalidModel


class TemplateRefused(Exception):
    """The template raised: it does not take this conversation. The message is the template's own."""


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}…{% endgeneration %}`` marks what the assistant writes; it prints as its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Make the block a call, so that what is set inside stays inside, as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: jinja2.runtime.Macro) -> str:
        text: str = caller()
        return text


class _Dict:
    """``dict(...)`` for templates, without the attributes of the class itself."""

    def __call__(self, *args: Any, **fields: Any) -> dict[Any, Any]:
        return dict(*args, **fields)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """``namespace(...)`` for templates, closed to names that begin with an underscore."""

    def __init__(*args: Any, **fields: Any) -> None:  # `self` stays free as the name of a field
        self, *rest = args
        attributes = dict(*rest, **fields)
        for name in attributes:
            _Namespace._refuse_private(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._refuse_private(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def _refuse_private(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a template may not set the private attribute {name!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment


@lru_cache(maxsize=64)
def _compile(source: str) -> jinja2.Template:
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise InvalidModel(
            f"the chat template is not valid Jinja: {error.message}",
            target=f"chat_template:{error.lineno}",
            way_out="correct the template in chat_template.jinja or tokenizer_config.json of the model",
        ) from error


class ChatTemplate:
    """A compiled template.

    ``variables`` are the special tokens by their names (``bos_token``, ``eos_token``, …). ``today`` fixes what
    ``strftime_now`` tells; ``None`` is the clock.
    """

    def __init__(self, source: str, variables: Mapping[str, str], *, tool_source: str | None = None) -> None:
        self.source = source
        self._template = _compile(source)
        self._tool_template = self._template if tool_source is None else _compile(tool_source)
        self._variables = dict(variables)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = False,
        today: datetime | None = None,
    ) -> str:
        """The text of ``messages``. Raises ``TemplateRefused`` where the template does."""
        variables: dict[str, Any] = self._variables
        if today is not None:
            variables = {**variables, "strftime_now": today.strftime}
        template = self._tool_template if tools else self._template
        try:
            return template.render(
                messages=messages,
                tools=list(tools) if tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise TemplateRefused(str(error) or type(error).__name__) from error
