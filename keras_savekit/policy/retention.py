"""Which checkpoints stay and which go.

Pure: takes records and rules, returns a plan with reasons. Removing is
`store.directory`; when it happens is the session's business.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_serializer

from keras_savekit.errors import Problem
from keras_savekit.policy.value import (
    UNKNOWN_KEY,
    Mode,
    Text,
    Value,
    Whole,
    WrongValueError,
    read_each,
    show,
    suggest,
    wrong,
)

_SPELLINGS = '"last 3", "best 2 val_loss min", "all"'
_KEYS = ("last", "best", "metric", "mode")


@dataclass(frozen=True, slots=True)
class Record:
    """What retention knows of one checkpoint.

    verified: False while it is not yet verified.
    busy: being verified or read right now.
    """

    name: str
    plan: str
    step: int
    logs: Mapping[str, float]
    verified: bool
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Pruning:
    """What stays and what goes: each name with its reasons, oldest first."""

    keep: Mapping[str, tuple[str, ...]]
    remove: Mapping[str, str]


class Rule(Value, ABC):
    """One way of choosing what stays, among the verified checkpoints of one plan."""

    @abstractmethod
    def chosen(self, verified: Sequence[Record]) -> dict[str, str]:
        """Name to reason of those that stay; `verified` is given oldest first."""

    @abstractmethod
    def describe(self) -> str:
        """The rule, in English."""

    @abstractmethod
    def as_written(self) -> Any:
        """The rule in the shape of YAML."""

    def metrics(self) -> frozenset[str]:
        """The metrics it looks at."""
        return frozenset()

    @model_serializer
    def _serialized(self) -> Any:
        return self.as_written()


class Last(Rule):
    """The newest, by step."""

    count: Whole = Field(description="how many to keep")

    def chosen(self, verified: Sequence[Record]) -> dict[str, str]:
        """The last of the list."""
        return {each.name: self.describe() for each in verified[-self.count :]}

    def describe(self) -> str:
        """`last 3`."""
        return f"last {self.count}"

    def as_written(self) -> Any:
        """`{last: 3}`."""
        return {"last": self.count}


class Best(Rule):
    """The best by one metric; those that lack it, or hold no finite value, are none."""

    count: Whole = Field(description="how many to keep")
    metric: Text = Field(description="the name of a metric, such as val_loss")
    mode: Mode = Field(description="which way is better, min or max; it is never guessed")

    def chosen(self, verified: Sequence[Record]) -> dict[str, str]:
        """The first of the ranking."""
        ranked = _ranked(verified, self.metric, self.mode)[: self.count]
        return {each.name: f"{self.describe()}: {each.logs[self.metric]:.6g}" for each in ranked}

    def metrics(self) -> frozenset[str]:
        """The one it ranks by."""
        return frozenset({self.metric})

    def describe(self) -> str:
        """`best 2 val_loss min`."""
        return f"best {self.count} {self.metric} {self.mode}"

    def as_written(self) -> Any:
        """`{best: 2, metric: val_loss, mode: min}`."""
        return {"best": self.count, "metric": self.metric, "mode": self.mode}


class All(Rule):
    """Every one."""

    def chosen(self, verified: Sequence[Record]) -> dict[str, str]:
        """The whole list."""
        return {each.name: "all" for each in verified}

    def describe(self) -> str:
        """`all`."""
        return "all"

    def as_written(self) -> Any:
        """`all`."""
        return "all"


def prune(
    records: Iterable[Record],
    rules: Mapping[str, tuple[Rule, ...]],
    resume_from: str | None = None,
) -> Pruning:
    """What the rules keep and what they let go.

    records: all checkpoints of the run, in any order.
    rules: plan name to its rules; the checkpoints of a plan without rules stay.
    resume_from: the name of the checkpoint that training resumed from, if any.

    Whatever the rules say, these stay: the newest verified checkpoint,
    `resume_from`, busy ones, and those not yet verified.
    """
    ordered = sorted(records, key=_age)
    verified = [each for each in ordered if each.verified]
    reasons: dict[str, list[str]] = {each.name: _unremovable(each, resume_from) for each in ordered}
    if verified:
        reasons[verified[-1].name].insert(0, "newest verified")
    for plan in dict.fromkeys(each.plan for each in ordered):
        for rule in rules.get(plan, ()):
            of_plan = [each for each in verified if each.plan == plan]
            for name, reason in rule.chosen(of_plan).items():
                reasons[name].append(reason)
        if not rules.get(plan):
            for each in ordered:
                if each.plan == plan:
                    reasons[each.name].append(f'the policy has no plan "{plan}"')
    return Pruning(
        keep={name: tuple(why) for name, why in reasons.items() if why},
        remove={
            each.name: f"not in {', '.join(rule.describe() for rule in rules[each.plan])}"
            for each in ordered
            if not reasons[each.name]
        },
    )


def _unremovable(record: Record, resume_from: str | None) -> list[str]:
    held = (
        (record.name == resume_from, "training resumed from it"),
        (record.busy, "in use"),
        (not record.verified, "not yet verified"),
    )
    return [reason for holds, reason in held if holds]


def best_of(records: Iterable[Record], metric: str, mode: Mode) -> Record | None:
    """The best verified checkpoint by `metric`; of equals, the earlier one.

    None if no verified checkpoint has a finite value of it.
    """
    ranked = _ranked(records, metric, mode)
    return ranked[0] if ranked else None


def _ranked(records: Iterable[Record], metric: str, mode: Mode) -> list[Record]:
    sign = 1 if mode == "min" else -1
    able = [
        each for each in records if each.verified and math.isfinite(each.logs.get(metric, math.nan))
    ]
    return sorted(able, key=lambda each: (sign * each.logs[metric], *_age(each)))


def _age(record: Record) -> tuple[int, str]:
    return (record.step, record.name)


def parse_rule(text: str) -> Rule:
    """The rule that a short string such as `last 3` spells.

    Raises WrongValueError if it spells none.
    """
    shape: dict[str, object]
    match text.split():
        case ["all"]:
            return All()
        case ["last", count]:
            shape = {"last": count}
        case ["best", count, metric, mode]:
            shape = {"best": count, "metric": metric, "mode": mode}
        case ["best", *_]:
            raise wrong(f'must be written like "best 2 val_loss min", got {show(text)}')
        case [word, *_]:
            near = suggest(word, ("last", "best", "all"))
            hint = f"{near} " if near.startswith("did") and word != "last" else ""
            raise wrong(f"no rule is written {show(text)}; {hint}known: {_SPELLINGS}")
        case _:
            raise wrong(f"must not be empty; known: {_SPELLINGS}")
    try:
        return _from_mapping(shape)[0]
    except WrongValueError as error:
        problems = tuple(Problem("", f"{each.path} {each.message}") for each in error.problems)
        raise WrongValueError(show(text), problems) from error


def read_rules(value: object) -> tuple[Rule, ...]:
    """Rules from values, short strings, the YAML shapes, or a list of these.

    Raises WrongValueError with all problems, each with its path.
    """
    if isinstance(value, list | tuple):
        if not value:
            raise wrong("needs at least one rule, got an empty list; write all to keep everything")
        rules = tuple(rule for some in read_each(value, _read_one) for rule in some)
    else:
        rules = _read_one(value)
    _refuse_senseless(rules)
    return rules


def _read_one(value: object) -> tuple[Rule, ...]:
    if isinstance(value, Rule):
        return (value,)
    if isinstance(value, str):
        return (parse_rule(value),)
    if isinstance(value, Mapping) and value:
        return _from_mapping(value)
    if isinstance(value, int) and not isinstance(value, bool):
        raise wrong(f"must say which: write {{last: {value}}}")
    raise wrong(
        f"must be {{last: 3}}, {{best: 2, metric: val_loss, mode: min}} or all; got {show(value)}"
    )


def _from_mapping(shape: Mapping[Any, object]) -> tuple[Rule, ...]:
    """`{last: 3}`, `{best: 2, metric: val_loss, mode: min}`, or both in one."""
    problems = [
        Problem(str(key), f"{UNKNOWN_KEY}; {suggest(str(key), _KEYS)}")
        for key in shape
        if key not in _KEYS
    ]
    rules: list[Rule] = []
    best = {key: shape[key] for key in ("metric", "mode") if key in shape}
    if "last" in shape:
        problems += _add(rules, Last, "last", {"count": shape["last"]})
    if "best" in shape:
        problems += _add(rules, Best, "best", {"count": shape["best"], **best})
    elif best and not problems:
        problems.append(Problem("", "metric and mode need best: {best: 2, metric: ..., mode: ...}"))
    if problems:
        raise WrongValueError("the rule", tuple(problems))
    return tuple(rules)


def _add(rules: list[Rule], kind: type[Rule], key: str, fields: dict[str, object]) -> list[Problem]:
    """Add the rule, or return what is wrong with it; YAML calls the count `last` or `best`."""
    try:
        rules.append(kind(**fields))
    except WrongValueError as error:
        return [
            Problem(key if each.path == "count" else each.path, each.message)
            for each in error.problems
        ]
    return []


def _refuse_senseless(rules: tuple[Rule, ...]) -> None:
    if len(rules) > 1 and All() in rules:
        raise wrong("all keeps everything, so the other rules say nothing; remove one or the other")
    seen: list[tuple[object, ...]] = []
    for rule in rules:
        what = (type(rule), *rule.metrics())
        if what in seen:
            raise wrong(f"{rule.describe()}: there is such a rule already; remove one of them")
        seen.append(what)


Rules = Annotated[tuple[Rule, ...], BeforeValidator(read_rules)]
