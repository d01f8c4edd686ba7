"""Conditions over logs, such as `val_accuracy >= 0.95 and loss < 0.1`.

    condition  = all { "or" all }
    all        = each { "and" each }
    each       = "not" each | "(" condition ")" | operand compare operand
    compare    = "<" | "<=" | ">" | ">=" | "==" | "!="
    operand    = number | metric, in backquotes if it is not one word, [0] or [0][1] after it

A grammar of its own, never `eval`. A metric that the logs lack makes the whole
condition unknown; a NaN makes each comparison false but `!=`, as everywhere.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from keras_savekit.base.logs import Logs, number
from keras_savekit.base.text import show
from keras_savekit.policy.fields import wrong

_Numbers = Mapping[str, float]
_Test = Callable[[_Numbers], bool]
_Number = Callable[[_Numbers], float]

_TOKEN = re.compile(
    r"\s*(?:(?P<compare><=|>=|==|!=|<|>)|(?P<bracket>[()])"
    r"|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))"
    r"|(?P<name>(?:[A-Za-z_][\w./-]*|`[^`]+`)(?:\[[\w./-]+\])*)|(?P<wrong>\S))"
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_WORDS = ("and", "or", "not")
_EXAMPLE = "val_accuracy >= 0.95 and loss < 0.1"
_DEEPEST = 30


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that was read.

    metrics: those that it compares.
    """

    metrics: frozenset[str]
    _test: _Test

    def holds(self, logs: Logs) -> bool | None:
        """Whether it holds; None while the logs lack one of its metrics."""
        numbers: dict[str, float] = {}
        for metric in self.metrics:
            value = number(logs, metric)
            if value is None:
                return None
            numbers[metric] = value
        return self._test(numbers)


@lru_cache(maxsize=256)
def parse_condition(text: str) -> Condition:
    """The condition that `text` says.

    Raises WrongValueError that names the place, counted from 1, and what may be there.
    """
    reading = _Reading(text)
    test = reading.condition()
    reading.expect_end()
    if not reading.metrics:
        raise wrong(f"compares no metric; write one such as {show(_EXAMPLE)}")
    return Condition(frozenset(reading.metrics), test)


class _Reading:
    """One pass over the words of a condition, from left to right."""

    def __init__(self, text: str) -> None:
        self.metrics: set[str] = set()
        self._tokens = [
            (str(match.lastgroup), match[match.lastgroup or 0], match.start(match.lastgroup or 0))
            for match in _TOKEN.finditer(text)
        ]
        self._tokens.append(("end", "", len(text)))
        self._at = 0
        self._depth = 0

    def condition(self) -> _Test:
        tests = [self._all()]
        while self._take("name", "or"):
            tests.append(self._all())
        return tests[0] if len(tests) == 1 else lambda numbers: any(test(numbers) for test in tests)

    def _all(self) -> _Test:
        tests = [self._each()]
        while self._take("name", "and"):
            tests.append(self._each())
        return tests[0] if len(tests) == 1 else lambda numbers: all(test(numbers) for test in tests)

    def _each(self) -> _Test:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._wrong("nested too deeply here")
        try:
            if self._take("name", "not"):
                inner = self._each()
                return lambda numbers: not inner(numbers)
            if self._take("bracket", "("):
                inner = self.condition()
                if not self._take("bracket", ")"):
                    raise self._wrong('needs ")" or "and" or "or"')
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> _Test:
        left = self._operand()
        kind, sign, _ = self._tokens[self._at]
        if kind != "compare":
            raise self._wrong(f"needs one of {' '.join(_COMPARE)}")
        self._at += 1
        right = self._operand()
        compare = _COMPARE[sign]
        return lambda numbers: compare(left(numbers), right(numbers))

    def _operand(self) -> _Number:
        kind, word, _ = self._tokens[self._at]
        if kind == "number":
            self._at += 1
            constant = float(word)
            return lambda numbers: constant
        if kind == "name" and word not in _WORDS:
            self._at += 1
            metric = word.replace("`", "")
            self.metrics.add(metric)
            return lambda numbers: numbers[metric]
        raise self._wrong("needs a metric or a number")

    def expect_end(self) -> None:
        if self._tokens[self._at][0] != "end":
            raise self._wrong('needs "and" or "or", or the end')

    def _take(self, kind: str, word: str) -> bool:
        if self._tokens[self._at][:2] != (kind, word):
            return False
        self._at += 1
        return True

    def _wrong(self, what: str) -> Exception:
        _, word, start = self._tokens[self._at]
        got = show(word) if word else "its end"
        return wrong(f"{what} at character {start + 1}, got {got}; write it like {show(_EXAMPLE)}")
