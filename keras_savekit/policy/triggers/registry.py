"""Read triggers from values, short strings and the shapes of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from keras_savekit.base.text import show, suggest
from keras_savekit.errors import Problem
from keras_savekit.policy.fields import UNKNOWN_KEY, WrongValueError, read_each, wrong
from keras_savekit.policy.triggers.base import KINDS, Trigger


def parse_trigger(text: str) -> Trigger:
    """Return the trigger that a short string such as `every 200 steps` spells.

    Raises WrongValueError if it spells none.
    """
    words = text.split()
    spelled = {key: kind for key, kind in KINDS.items() if kind.spelling}
    kind = spelled.get(words[0]) if words else None
    if kind is not None:
        try:
            return kind.from_words(words[1:])
        except WrongValueError as error:
            problems = tuple(
                Problem("", join_words(problem.path, problem.message)) for problem in error.problems
            )
            raise WrongValueError(show(text), problems) from None
    examples = ", ".join(f'"{kind.spelling}"' for kind in spelled.values())
    if words and words[0] in KINDS:
        raise wrong(f"{show(text)} cannot be said in one line; write {KINDS[words[0]].example}")
    near = suggest(words[0], spelled) if words else ""
    hint = f"{near} " if near.startswith("did") else ""
    raise wrong(f"no trigger is written {show(text)}; {hint}known: {examples}")


def join_words(field: str, message: str) -> str:
    """Return the message about a field of a short string, where no path leads to it."""
    return f"{field} {message}" if field else message


def read_trigger(value: object) -> Trigger:
    """Read a trigger from its value, its short string or its YAML shape.

    Raises WrongValueError with all problems, each with its path.
    """
    if isinstance(value, Trigger):
        return value
    if isinstance(value, str):
        return parse_trigger(value)
    if not isinstance(value, Mapping) or not value:
        raise wrong(
            f'must be a trigger such as {KINDS["every"].example} or "train_end", got {show(value)}'
        )
    unknown = [key for key in value if key not in KINDS]
    if len(value) == 1 and not unknown:
        key = next(iter(value))
        try:
            return KINDS[key].from_body(value[key])
        except WrongValueError as error:
            raise WrongValueError(key, error.under(key)) from None
    raise _not_one_trigger(value, unknown)


def _not_one_trigger(value: Mapping[Any, object], unknown: list[Any]) -> WrongValueError:
    known = [key for key in value if key in KINDS]
    empty = [key for key in known if value[key] is None]
    if len(empty) == 1:
        kind = KINDS[empty[0]]
        others = [key for key in value if key != kind.key]
        if all(key in kind.model_fields for key in others):
            words = " and ".join(others)
            return wrong(f"indent {words} further, to be inside {kind.key}: {kind.example}")
    if unknown:
        hints = ((str(key), suggest(str(key), KINDS)) for key in unknown)
        problems = tuple(Problem(key, f"{UNKNOWN_KEY}; {hint}") for key, hint in hints)
        return WrongValueError("the trigger", problems)
    return wrong(
        f"{' and '.join(known)} are several triggers in one entry: start each with a dash,"
        " or write {all: [...]} if they must hold together"
    )


def read_triggers(value: object) -> tuple[Trigger, ...]:
    """Read one trigger, or a list of them, as `read_trigger` reads each."""
    if not isinstance(value, list | tuple):
        return (read_trigger(value),)
    if not value:
        raise wrong("needs at least one trigger, got an empty list")
    return read_each(value, read_trigger)


Triggers = Annotated[tuple[Trigger, ...], BeforeValidator(read_triggers)]
