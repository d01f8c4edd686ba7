"""Retention rules, read from values, short strings and the shapes of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from keras_savekit.errors import Problem
from keras_savekit.policy.fields import (
    UNKNOWN_KEY,
    WrongValueError,
    join,
    read_each,
    show,
    suggest,
    wrong,
)
from keras_savekit.policy.rules.kinds import All, Best, EveryNth, Last, NewerThan, Rule, WithinSize

_SPELLINGS = (
    '"last 3", "best 2 val_loss min", "every 50 epochs", "newer_than 7d", "size 20GB", "all"'
)
# A rule's key in YAML, and the field that stands under it.
_FIELDS: dict[str, tuple[type[Rule], str]] = {
    "last": (Last, "count"),
    "best": (Best, "count"),
    "every": (EveryNth, ""),
    "newer_than": (NewerThan, "age"),
    "size": (WithinSize, "size"),
}
_OF_BEST = ("metric", "mode", "keep")
_KEYS = (*_FIELDS, *_OF_BEST)


def parse_rule(text: str) -> Rule:
    """The rule that a short string such as `last 3` spells.

    Raises WrongValueError if it spells none.
    """
    try:
        return _from_mapping(_shape(text))[0] if text.split() != ["all"] else All()
    except WrongValueError as error:
        problems = tuple(
            Problem("", f"{each.path.rpartition('.')[2]} {each.message}".strip())
            for each in error.problems
        )
        raise WrongValueError(show(text), problems) from error


def _shape(text: str) -> dict[str, object]:
    match text.split():
        case ["last" | "newer_than" | "size" as key, value]:
            return {key: value}
        case ["best", count, metric, mode]:
            return {"best": count, "metric": metric, "mode": mode}
        case ["best", count, metric, mode, keep]:
            return {"best": count, "metric": metric, "mode": mode, "keep": keep}
        case ["best", *_]:
            raise wrong(f'must be written like "best 2 val_loss min", got {show(text)}')
        case ["every", unit]:
            return {"every": {_many(unit): 1}}
        case ["every", count, unit]:
            return {"every": {_many(unit): count}}
        case [word, *_]:
            near = suggest(word, (*_FIELDS, "all"))
            hint = f"{near} " if near.startswith("did") and word not in _FIELDS else ""
            raise wrong(f"no rule is written {show(text)}; {hint}known: {_SPELLINGS}")
    raise wrong(f"must not be empty; known: {_SPELLINGS}")


def _many(unit: str) -> str:
    return unit if unit.endswith("s") else f"{unit}s"


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
    """`{last: 3}`, `{best: 2, metric: val_loss, mode: min}`, or several in one."""
    problems = [
        Problem(str(key), f"{UNKNOWN_KEY}; {suggest(str(key), _KEYS)}")
        for key in shape
        if key not in _KEYS
    ]
    rules: list[Rule] = []
    of_best = {key: shape[key] for key in _OF_BEST if key in shape}
    for key, (kind, field) in _FIELDS.items():
        if key not in shape:
            continue
        fields = {field: shape[key]} if field else shape[key]
        if not isinstance(fields, Mapping):
            got = show(fields)
            problems.append(
                Problem(key, f"must be written as {{every: {{epochs: 50}}}}, got {got}")
            )
            continue
        try:
            rules.append(kind(**{**fields, **(of_best if key == "best" else {})}))
        except WrongValueError as error:
            problems += [_named(each, key, field) for each in error.problems]
    if of_best and "best" not in shape and not problems:
        words = " and ".join(of_best)
        need = "needs" if len(of_best) == 1 else "need"
        problems.append(Problem("", f"{words} {need} best: {{best: 2, metric: ..., mode: ...}}"))
    if problems:
        raise WrongValueError("the rule", tuple(problems))
    return tuple(rules)


def _named(problem: Problem, key: str, field: str) -> Problem:
    """The problem under the path that YAML gives it: the count of `last` is `last` itself."""
    if not field:
        return Problem(join(key, problem.path), problem.message)
    return Problem(key if problem.path == field else problem.path, problem.message)


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
