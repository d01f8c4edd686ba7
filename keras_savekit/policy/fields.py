"""What every policy value is: frozen, exact, and clear about what is wrong.

pydantic finds what is wrong; the words are ours. A value that cannot be built
raises WrongValueError, which names every problem with its path inside the
value. It knows nothing of triggers, plans or files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from keras_savekit.base.text import number_text, show, suggest
from keras_savekit.errors import PolicyError, Problem

Mode = Literal["min", "max"]
Ties = Literal["first", "last"]
T = TypeVar("T")

UNKNOWN_KEY = "unknown key"
_LARGEST = 1e18
_WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class Ranking(NamedTuple):
    """By which metric something is ranked, which way is better, and which of equals counts."""

    metric: str
    mode: Mode
    ties: Ties


class WrongValueError(PolicyError, ValueError):
    """A policy value that cannot be built.

    A ValueError too: pydantic collects those, so that one wrong value does not
    hide the next.
    """

    def under(self, path: str) -> tuple[Problem, ...]:
        """The problems, each with its path inside the value at `path`."""
        return tuple(replace(problem, path=join(path, problem.path)) for problem in self.problems)


class Value(BaseModel):
    """A frozen value that refuses unknown keys.

    one_of: exactly one of these fields is given; empty if there is no such group.

    Raises WrongValueError, with all problems, if it cannot be built.
    """

    one_of: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,  # which may be a key in a wrong place
    )

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise WrongValueError(type(self).__name__, _problems(error, type(self))) from None


def wrong(message: str, path: str = "") -> WrongValueError:
    """The error for one problem, to be raised where it is found."""
    return WrongValueError("the value", (Problem(path, message),))


def join(path: str, inner: str) -> str:
    """The dotted path of `inner`, a path inside the value at `path`."""
    dot = "." if path and inner and not inner.startswith(("[", ".")) else ""
    return f"{path}{dot}{inner}"


def read_each(items: Sequence[object], read: Callable[[object], T]) -> tuple[T, ...]:
    """Each item read. Raises WrongValueError with the problems of all of them."""
    values: list[T] = []
    problems: list[Problem] = []
    for index, item in enumerate(items):
        try:
            value = read(item)
            if value in values:
                raise wrong(f"says the same as entry {values.index(value) + 1}; remove one of them")
            values.append(value)
        except WrongValueError as error:  # noqa: PERF203 - every item's problems are wanted
            problems += error.under(f"[{index}]")
    if problems:
        raise WrongValueError("the list", tuple(problems))
    return tuple(values)


def as_number(value: object) -> int | float:
    """Return `value` as a number; text such as 1e-3, which YAML takes for a word, is read."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value) if _WHOLE.fullmatch(value) else float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(f"must be a number, got {show(value)}")
    if not -_LARGEST < value < _LARGEST:  # NaN fails this too
        raise wrong(f"must be a finite number below 1e18, got {show(value)}")
    return value


def as_whole(value: object) -> int:
    """Return `value` as an int; 2.0 is one, 2.5 and True are not."""
    number = as_number(value)
    if number != int(number):
        raise wrong(f"must be a whole number, got {show(number)}")
    return int(number)


Whole = Annotated[int, BeforeValidator(as_whole), Field(ge=1)]
Number = Annotated[float, BeforeValidator(as_number)]
Text = Annotated[str, Field(min_length=1)]


def _problems(error: ValidationError, kind: type[BaseModel]) -> tuple[Problem, ...]:
    found: list[Problem] = []
    for detail in error.errors(include_url=False):
        path = ""
        for part in detail["loc"]:
            path = join(path, f"[{part}]" if isinstance(part, int) else part)
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, WrongValueError):
            found += cause.under(path)
        else:
            found.append(Problem(path, _message(dict(detail), kind)))
    return tuple(found)


def _message(detail: Mapping[str, Any], kind: type[BaseModel]) -> str:
    """What pydantic found, in the words of a policy."""
    field = str(detail["loc"][-1]) if detail["loc"] else ""
    known = {field.alias or name: field for name, field in kind.model_fields.items()}
    context = detail.get("ctx", {})
    got = show(detail["input"])
    if isinstance(detail["input"], str) and _NUMBER.fullmatch(detail["input"]):
        got = number_text(as_number(detail["input"]))  # without the quotes of the text it came in
    match detail["type"]:
        case "missing":
            return f"is missing: {known[field].description}"
        case "extra_forbidden":
            return f"{UNKNOWN_KEY}; {suggest(field, known)}"
        case "literal_error":
            allowed = [str(value) for value in get_args(known[field].annotation)]
            words = f"must be {' or '.join(allowed)}, got {got}"
            near = get_close_matches(str(detail["input"]).lower(), allowed, n=1)
            return f'{words}; did you mean "{near[0]}"?' if near else words
        case "greater_than_equal":
            return f"must be {number_text(context['ge'])} or more, got {got}"
        case "greater_than":
            return f"must be more than {number_text(context['gt'])}, got {got}"
        case "string_type":
            quotes = "" if isinstance(detail["input"], Mapping | list) else "; put it in quotes"
            return f"must be text, got {got}{quotes if detail['input'] is not None else ''}"
        case "string_too_short":
            return "must not be empty"
        case "model_type":
            return f"must be a mapping (key: value), got {got}"
    return str(detail["msg"])  # no field has such a check today; better a foreign word than none
