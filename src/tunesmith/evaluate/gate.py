"""A rule that an evaluation must keep before its model may be registered.

    rule       = and-rule { "or" and-rule }
    and-rule   = check { "and" check }
    check      = "not" check | "(" rule ")" | sum relation sum
    relation   = "<=" | ">=" | "<" | ">" | "==" | "!="
    sum        = product { ("+" | "-") product }
    product    = value { ("*" | "/") value }
    value      = ["-"] ( number | metric | "base" | "base." metric | "(" sum ")" )

``base`` alone means the base model's value of the one metric that its check names: ``perplexity <= base`` and
``rougeL >= base * 1.02``. Read by the parser below, never by Python's ``eval``.
"""

from __future__ import annotations

import difflib
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from tunesmith.errors import Conflict, ValidationFailed

MAX_LENGTH = 500
"""Characters of a rule; also bounds how deep it can nest."""
MAX_DEPTH = 50

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?)"
    r"|(?P<sign><=|>=|==|!=|[<>()+*/-]))"
)
_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
_WORDS = {"and", "or", "not"}


class GateCheck(BaseModel):
    """One comparison of a rule, with its numbers."""

    model_config = ConfigDict(frozen=True)

    text: str
    left: float
    relation: str
    right: float
    holds: bool

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "does not hold"
        return f"{self.text}: {self.left:.6g} {self.relation} {self.right:.6g} {verdict}"


class GateResult(BaseModel):
    """Whether a rule holds, and why."""

    model_config = ConfigDict(frozen=True)

    rule: str
    passed: bool
    checks: tuple[GateCheck, ...]

    @property
    def message(self) -> str:
        """One sentence with the numbers."""
        return (
            f"the gate {self.rule!r} {'holds' if self.passed else 'does not hold'} ({'; '.join(map(str, self.checks))})"
        )

    def require(self) -> None:
        """Raise ``Conflict`` with the numbers when the rule does not hold."""
        if not self.passed:
            raise Conflict(
                self.message,
                target="gate",
                way_out="train longer or on other data, or register without this rule",
                extra={"checks": [check.model_dump() for check in self.checks]},
            )


def check_rule(rule: str) -> None:
    """Whether ``rule`` can be read, before there is anything to judge. Raises ``ValidationFailed``."""
    _Parser(rule).parse()


def judge(rule: str, metrics: Mapping[str, float], base: Mapping[str, float] | None = None) -> GateResult:
    """Apply ``rule`` to the tuned model's ``metrics`` and those of ``base``.

    Raises ``ValidationFailed`` that says where the rule cannot be read, which metric is unknown, or that there is no
    base.
    """
    tree = _Parser(rule).parse()
    checks: list[GateCheck] = []
    passed = tree.holds(_Scope(rule, metrics, base, checks))
    return GateResult(rule=rule, passed=passed, checks=tuple(checks))


# ── the tree


@dataclass(slots=True)
class _Scope:
    rule: str
    metrics: Mapping[str, float]
    base: Mapping[str, float] | None
    checks: list[GateCheck]

    def value(self, name: str, *, of_base: bool, at: int) -> float:
        table = self.base if of_base else self.metrics
        if table is None:
            raise _fault(self.rule, at, "there is no evaluation of a base model to compare with")
        if name not in table:
            close = difflib.get_close_matches(name, table, n=1)
            known = f"it has {', '.join(sorted(table))}"
            whose = "base model's evaluation" if of_base else "evaluation"
            raise _fault(
                self.rule, at, f"the {whose} has no {name}", f"did you mean {close[0]}? {known}" if close else known
            )
        return table[name]


class _Rule(ABC):
    @abstractmethod
    def holds(self, scope: _Scope) -> bool:
        """Whether it holds; every comparison made is kept in ``scope``."""


@dataclass(slots=True)
class _Join(_Rule):
    word: str
    parts: list[_Rule]

    def holds(self, scope: _Scope) -> bool:
        # Every part is worked out, so that the result shows all numbers.
        found = [part.holds(scope) for part in self.parts]
        return all(found) if self.word == "and" else any(found)


@dataclass(slots=True)
class _Not(_Rule):
    part: _Rule

    def holds(self, scope: _Scope) -> bool:
        return not self.part.holds(scope)


@dataclass(slots=True)
class _Check(_Rule):
    text: str
    at: int
    left: _Value
    relation: str
    right: _Value

    def holds(self, scope: _Scope) -> bool:
        names = set(self.left.names()) | set(self.right.names())
        metric = names.pop() if len(names) == 1 else None
        left, right = (side.value(scope, metric) for side in (self.left, self.right))
        holds = _RELATIONS[self.relation](left, right)
        scope.checks.append(GateCheck(text=self.text, left=left, relation=self.relation, right=right, holds=holds))
        return holds


class _Value(ABC):
    @abstractmethod
    def value(self, scope: _Scope, metric: str | None) -> float:
        """The number; ``metric`` is the one that ``base`` alone means."""

    def names(self) -> list[str]:
        """The tuned model's metrics in it."""
        return []


@dataclass(slots=True)
class _Number(_Value):
    number: float

    def value(self, scope: _Scope, metric: str | None) -> float:
        return self.number


@dataclass(slots=True)
class _Metric(_Value):
    name: str
    at: int

    def value(self, scope: _Scope, metric: str | None) -> float:
        if self.name == "base":
            if metric is None:
                raise _fault(
                    scope.rule, self.at, "which metric of the base model?", "write base.perplexity, or the like"
                )
            return scope.value(metric, of_base=True, at=self.at)
        if self.name.startswith("base."):
            return scope.value(self.name.removeprefix("base."), of_base=True, at=self.at)
        return scope.value(self.name, of_base=False, at=self.at)

    def names(self) -> list[str]:
        return [] if self.name.split(".")[0] == "base" else [self.name]


@dataclass(slots=True)
class _Arithmetic(_Value):
    sign: str
    left: _Value
    right: _Value
    at: int

    def value(self, scope: _Scope, metric: str | None) -> float:
        left, right = self.left.value(scope, metric), self.right.value(scope, metric)
        if self.sign == "/" and right == 0:
            raise _fault(scope.rule, self.at, "division by zero")
        return {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[self.sign](left, right)  # type: ignore[no-any-return]

    def names(self) -> list[str]:
        return self.left.names() + self.right.names()


# ── the parser


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    def __init__(self, rule: str) -> None:
        self.rule = rule
        if not rule.strip():
            raise _fault(rule, 0, "the rule is empty", "for example: perplexity <= base")
        if len(rule) > MAX_LENGTH:
            raise _fault(rule[:40] + "…", MAX_LENGTH, f"the rule is longer than {MAX_LENGTH} characters")
        self.tokens: list[_Token] = []
        at, end = 0, len(rule.rstrip())
        while at < end:
            found = _TOKEN.match(rule, at)
            if found is None:
                place = at + len(rule[at:]) - len(rule[at:].lstrip())
                raise _fault(rule, place, f"{rule[place]!r} is not part of the language of rules")
            kind = str(found.lastgroup)
            self.tokens.append(_Token(kind, found.group(kind), found.start(kind)))
            at = found.end()
        self.next = 0
        self.depth = 0

    def parse(self) -> _Rule:
        tree = self._or()
        if (error := self._unexpected()) is not None:
            raise error
        return tree

    def _peek(self) -> _Token | None:
        return self.tokens[self.next] if self.next < len(self.tokens) else None

    def _accept(self, *texts: str) -> _Token | None:
        token = self._peek()
        if token is not None and token.text in texts:
            self.next += 1
            return token
        return None

    def _end(self) -> int:
        return self.tokens[-1].at + len(self.tokens[-1].text)

    def _or(self) -> _Rule:
        parts = [self._and()]
        while self._accept("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else _Join("or", parts)

    def _and(self) -> _Rule:
        parts = [self._check()]
        while self._accept("and"):
            parts.append(self._check())
        return parts[0] if len(parts) == 1 else _Join("and", parts)

    def _check(self) -> _Rule:
        self._deeper()
        try:
            if self._accept("not"):
                return _Not(self._check())
            if self._holds_a_rule():
                opening = self.tokens[self.next]
                self.next += 1
                tree = self._or()
                if not self._accept(")"):
                    raise self._unexpected() or _fault(self.rule, opening.at, "this parenthesis is never closed")
                return tree
            return self._comparison()
        finally:
            self.depth -= 1

    def _holds_a_rule(self) -> bool:
        """Whether a parenthesis opens here and has a comparison in it, so is no mere sum."""
        if self.next >= len(self.tokens) or self.tokens[self.next].text != "(":
            return False
        depth = 0
        for token in self.tokens[self.next :]:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if depth == 0:
                return False
            if token.text in _RELATIONS or token.text in _WORDS:
                return True
        return False

    def _unexpected(self) -> ValidationFailed | None:
        token = self._peek()
        return None if token is None else _fault(self.rule, token.at, f"{token.text!r} is not expected here")

    def _comparison(self) -> _Rule:
        first = self._peek()
        left = self._sum()
        relation = self._accept(*_RELATIONS)
        if relation is None:
            token = self._peek()
            at = token.at if token else self._end()
            raise _fault(self.rule, at, "a comparison (<=, >=, <, >, ==, !=) is missing here")
        right = self._sum()
        start = first.at if first else 0
        last = self.tokens[self.next - 1]
        return _Check(self.rule[start : last.at + len(last.text)], start, left, relation.text, right)

    def _sum(self) -> _Value:
        value = self._product()
        while token := self._accept("+", "-"):
            value = _Arithmetic(token.text, value, self._product(), token.at)
        return value

    def _product(self) -> _Value:
        value = self._value()
        while token := self._accept("*", "/"):
            value = _Arithmetic(token.text, value, self._value(), token.at)
        return value

    def _value(self) -> _Value:
        self._deeper()
        try:
            token = self._peek()
            if token is None:
                raise _fault(self.rule, self._end(), "a number or a metric is missing at the end")
            if self._accept("-"):
                return _Arithmetic("-", _Number(0.0), self._value(), token.at)
            if self._accept("("):
                value = self._sum()
                if not self._accept(")"):
                    raise _fault(self.rule, token.at, "this parenthesis is never closed")
                return value
            if token.kind == "number":
                self.next += 1
                return _Number(float(token.text))
            if token.kind == "name" and token.text not in _WORDS:
                if "." in token.text and not token.text.startswith("base."):
                    raise _fault(self.rule, token.at, f"{token.text!r} is no metric", "a base value is base.perplexity")
                self.next += 1
                return _Metric(token.text, token.at)
            raise _fault(self.rule, token.at, f"{token.text!r} stands where a number or a metric is expected")
        finally:
            self.depth -= 1

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _fault(self.rule, 0, f"the rule nests deeper than {MAX_DEPTH}")


def _fault(rule: str, at: int, message: str, way_out: str | None = None) -> ValidationFailed:
    extra: dict[str, Any] = {"rule": rule, "position": at}
    return ValidationFailed(
        f"gate {rule!r}, character {at + 1}: {message}", target="gate", way_out=way_out, extra=extra
    )
