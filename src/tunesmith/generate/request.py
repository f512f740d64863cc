"""What is asked of an engine.

The words are OpenAI's. A request is strict: a field that nobody here knows is refused by name, and so is a value out of
its range; whether an engine can *honour* a known field is a question for its ``Capabilities``. Nothing is ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, get_args

from tunesmith.chat.messages import ROLES, Message
from tunesmith.errors import Fault, UnsupportedField, ValidationFailed

ResponseFormat = Literal["text", "json_object", "json_schema"]

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One conversation to continue, and how.

    ``max_tokens=None`` means up to the end of the context. ``temperature=0`` is greedy: the most probable token each
    time. ``seed`` makes a sampled answer repeatable on the same engine and precision; choice ``i`` of ``n`` draws
    from a stream of its own. Penalties count the tokens of the answer so far, as OpenAI's do. Log-probabilities are
    those of the model itself, before temperature, penalties and ``top_p``.

    Raises ``ValidationFailed`` with every fault when a value is of a wrong type or out of range.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    response_format: Mapping[str, Any] | None = None
    """``{"type": "text"}``, ``{"type": "json_object"}`` or ``{"type": "json_schema", "json_schema": {…}}``."""
    stream: bool = False
    tool_choice: str | Mapping[str, Any] = "auto"
    """``auto`` leaves it to the model, ``required`` makes it call one of ``tools``, and
    ``{"type": "function", "function": {"name": …}}`` this one. To allow no call, leave ``tools`` out.
    """
    parallel_tool_calls: bool = True
    """Whether a turn may have several calls."""
    adapter: str | None = None
    """The LoRA adapter that answers, of an engine that has several; None is the base model."""

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise ValidationFailed("the request cannot be used", details=faults)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken each time."""
        return self.temperature == 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form; fields that have their default value are left out."""
        body: dict[str, Any] = {"messages": [message.to_openai() for message in self.messages]}
        for name, default in _defaults().items():
            value = getattr(self, name)
            if name == "messages" or value is default or value == default:
                continue
            body[name] = list(value) if isinstance(value, tuple) else value
        return body

    @property
    def forced_tools(self) -> tuple[Mapping[str, Any], ...]:
        """The tools of which one must be called; none where the model decides."""
        if not isinstance(self.tool_choice, str):
            name = self.tool_choice["function"]["name"]
            return tuple(tool for tool in self.tools if tool["function"]["name"] == name)
        return self.tools if self.tool_choice == "required" else ()

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> GenerateRequest:
        """Read the JSON form back.

        Raises ``UnsupportedField`` for a field that is not known, ``ValidationFailed`` for a wrong value. ``stop``
        may be one string.
        """
        known = [item.name for item in fields(cls)]
        for name in body:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                raise UnsupportedField(
                    f"{name} is not a field of a generate request",
                    target=name,
                    way_out=f"did you mean {close[0]}?" if close else f"known fields: {', '.join(known)}",
                )
        values = dict(body)
        values["messages"] = _messages(body.get("messages"))
        if "tools" in values:
            values["tools"] = tuple(values["tools"] or ())
        stop = values.get("stop", ())
        values["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
        return cls(**values)


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValidationFailed("messages must be a list", target="messages")
    found: list[Message] = []
    faults: list[Fault] = []
    for number, body in enumerate(value):
        target = f"messages[{number}]"
        if isinstance(body, Message):
            found.append(body)
        elif not isinstance(body, Mapping):
            faults.append(Fault(f"must be an object, not {type(body).__name__}", target))
        elif body.get("role") not in ROLES:
            faults.append(Fault(f"must be one of {', '.join(ROLES)}", f"{target}.role"))
        elif not isinstance(body.get("content"), str | None):
            faults.append(Fault("must be text", f"{target}.content"))
        else:
            try:
                found.append(Message.from_openai(body))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                faults.append(Fault(f"cannot be read: {error}", f"{target}.tool_calls"))
    if faults:
        raise ValidationFailed("the request cannot be used", details=faults)
    return tuple(found)


_RANGES: dict[str, tuple[bool, float, float]] = {
    "max_tokens": (True, 1, 2**31),
    "temperature": (False, 0.0, 2.0),
    "top_p": (False, 0.0, 1.0),
    "top_k": (True, 1, 2**31),
    "n": (True, 1, MAX_CHOICES),
    "seed": (True, -(2**63), 2**63 - 1),
    "top_logprobs": (True, 0, MAX_TOP_LOGPROBS),
    "frequency_penalty": (False, -2.0, 2.0),
    "presence_penalty": (False, -2.0, 2.0),
}
"""Whether it must be a whole number, and its bounds."""
_MAY_BE_NONE = {"max_tokens", "top_k", "seed"}


@cache
def _defaults() -> dict[str, Any]:
    return {item.name: item.default for item in fields(GenerateRequest)}


def _faults(request: GenerateRequest) -> list[Fault]:
    found = []
    defaults = _defaults()
    if not request.messages:
        found.append(Fault("there must be at least one message", "messages"))
    for name, (whole, low, high) in _RANGES.items():
        value: Any = getattr(request, name)
        if value is defaults[name] or (value is None and name in _MAY_BE_NONE):
            continue
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            wanted = "a whole number" if whole else "a number"
            found.append(Fault(f"must be {wanted}, not {type(value).__name__}", name))
        elif not low <= value <= high:  # also catches NaN
            found.append(Fault(f"must be between {low:g} and {high:g}, not {value:g}", name))
        elif name == "top_p" and value == 0:
            found.append(Fault("must be above 0", name, way_out="temperature 0 is greedy"))
    if len(request.stop) > MAX_STOP_STRINGS:
        found.append(Fault(f"at most {MAX_STOP_STRINGS} stop strings", "stop"))
    stops: tuple[Any, ...] = request.stop
    for number, stop in enumerate(stops):
        if not isinstance(stop, str) or not stop:
            found.append(Fault("must be text of at least one character", f"stop[{number}]"))
    for name in ("logprobs", "stream", "parallel_tool_calls"):
        if not isinstance(getattr(request, name), bool):
            found.append(Fault("must be true or false", name))
    if request.top_logprobs and request.logprobs is not True:
        found.append(Fault("needs logprobs to be true", "top_logprobs"))
    adapter: Any = request.adapter
    if adapter is not None and (not isinstance(adapter, str) or not adapter):
        found.append(Fault("must be the name of an adapter", "adapter"))
    tools: tuple[Any, ...] = request.tools
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            found.append(Fault("must be an object with a function that has a name", f"tools[{number}]"))
    if not any(fault.target and fault.target.startswith("tools") for fault in found):
        found += _choice_faults(request)
    form: Any = request.response_format
    if form is not None and (not isinstance(form, Mapping) or form.get("type") not in get_args(ResponseFormat)):
        found.append(Fault(f"must be an object with a type: {', '.join(get_args(ResponseFormat))}", "response_format"))
    return found


def _choice_faults(request: GenerateRequest) -> list[Fault]:
    choice: Any = request.tool_choice
    names = [tool["function"]["name"] for tool in request.tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return [Fault(f"there are two functions {twice!r}", "tools")]
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if name not in names:
            offered = ", ".join(names) or "none are given"
            return [Fault(f"names a function {name!r} that is not among tools ({offered})", "tool_choice")]
        return []
    if choice not in ("auto", "required"):
        return [Fault("must be auto, required, or an object that names a function", "tool_choice")]
    if choice == "required" and not names:
        return [Fault("needs tools", "tool_choice")]
    return []
