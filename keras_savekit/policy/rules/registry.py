"""Read rules of `keep` from values, short strings and the shapes of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from keras_savekit.base.text import show, suggest
from keras_savekit.errors import Problem
from keras_savekit.policy.fields import UNKNOWN_KEY, WrongValueError, join, read_each, wrong
from keras_savekit.policy.rules import kinds
from keras_savekit.policy.rules.base import KINDS, Rule

_KNOWN = ", ".join(show(kind.spelling) for kind in KINDS.values())


def parse_rule(text: str) -> Rule:
    """Return the rule that a short string such as `last 3` spells.

    Raises WrongValueError if it spells none.
    """
    words = text.split()
    if not words:
        raise wrong(f"must not be empty; known: {_KNOWN}")
    kind = KINDS.get(words[0])
    if kind is None:
        near = suggest(words[0], KINDS)
        hint = f"{near} " if near.startswith("did") else ""
        raise wrong(f"no rule is written {show(text)}; {hint}known: {_KNOWN}")
    try:
        return kind.from_words(words[1:])
    except WrongValueError as error:
        placed = (_placed(problem, kind) for problem in error.problems if problem.path)
        problems = tuple(
            Problem("", f"{problem.path.rpartition('.')[2]} {problem.message}")
            for problem in placed
        )
        problems += tuple(problem for problem in error.problems if not problem.path)
        raise WrongValueError(show(text), problems) from None


def read_rules(value: object) -> tuple[Rule, ...]:
    """Read rules from values, short strings, the YAML shapes, or a list of these.

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
    examples = f"{kinds.Last.example}, {kinds.Best.example} or all"
    raise wrong(f"must be {examples}; got {show(value)}")


def _from_mapping(shape: Mapping[Any, object]) -> tuple[Rule, ...]:
    """Read `{last: 3}`, `{best: 2, metric: val_loss, mode: min}`, or several in one."""
    with_fields = {key: kind for key, kind in KINDS.items() if kind.model_fields}
    owners = {field: kind for kind in with_fields.values() for field in kind.beside}
    known = (*with_fields, *owners)
    problems = [
        Problem(str(key), f"{UNKNOWN_KEY}; {suggest(str(key), known)}")
        for key in shape
        if key not in known
    ]
    rules: list[Rule] = []
    for key, kind in with_fields.items():
        if key not in shape:
            continue
        try:
            rules.append(_from_body(kind, shape))
        except WrongValueError as error:
            problems += [_placed(problem, kind) for problem in error.problems]
    if not problems:
        problems = _orphans(shape, owners)
    if problems:
        raise WrongValueError("the rule", tuple(problems))
    return tuple(rules)


def _from_body(kind: type[Rule], shape: Mapping[Any, object]) -> Rule:
    body = shape[kind.key]
    if kind.body:
        beside = {field: shape[field] for field in kind.beside if field in shape}
        return kind(**{kind.body: body, **beside})
    if not isinstance(body, Mapping):
        raise wrong(f"must be written as {kind.example}, got {show(body)}")
    return kind(**{str(name): value for name, value in body.items()})


def _orphans(shape: Mapping[Any, object], owners: Mapping[str, type[Rule]]) -> list[Problem]:
    """Return the fields whose rule is not there: `metric` without `best`."""
    found: dict[type[Rule], list[str]] = {}
    for field, kind in owners.items():
        if field in shape and kind.key not in shape:
            found.setdefault(kind, []).append(field)
    return [
        Problem(
            "",
            f"{' and '.join(fields)} need{'s' * (len(fields) == 1)} {kind.key}: {kind.example}",
        )
        for kind, fields in found.items()
    ]


def _placed(problem: Problem, kind: type[Rule]) -> Problem:
    """Return the problem under the path of YAML: the count of `last` is `last` itself."""
    if not kind.body:
        return Problem(join(kind.key, problem.path), problem.message)
    return Problem(kind.key if problem.path == kind.body else problem.path, problem.message)


def _refuse_senseless(rules: tuple[Rule, ...]) -> None:
    if len(rules) > 1 and kinds.All() in rules:
        raise wrong("all keeps everything, so the other rules say nothing; remove one or the other")
    seen: list[tuple[object, ...]] = []
    for rule in rules:
        what = (type(rule), *rule.metrics())
        if what in seen:
            raise wrong(f"{rule.describe()}: there is such a rule already; remove one of them")
        seen.append(what)


Rules = Annotated[tuple[Rule, ...], BeforeValidator(read_rules)]
