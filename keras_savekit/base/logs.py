"""Read the values of a training's logs, and find the one that a policy names.

A value is a number, a text, None, a tuple of values or a mapping of names to values. Arrays
are nested tuples. `formats.log_values` converts what Keras and the user's code report to
such values.

A policy names a metric, or a value in one: `val_loss`, `val_f1_score[0]`,
`val_cm[1][2]`, `scores[accuracy]`. Triggers and rules compare single numbers and ignore
all other values; `why_absent` says why a number is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from keras_savekit.base.text import show, suggest

if TYPE_CHECKING:
    LogValue: TypeAlias = (
        "bool | int | float | str | tuple[LogValue, ...] | Mapping[str, LogValue] | None"
    )
else:  # pydantic evaluates annotations and does not know the name of a recursive type
    LogValue = Any
Logs: TypeAlias = Mapping[str, LogValue]
Validation = Literal["done", "later", "none"]

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NAME = re.compile(r"(?P<metric>.+?)(?P<path>(?:\[[^\[\]]+\])+)", re.DOTALL)
_INDEX = re.compile(r"[0-9]{1,9}")
_SHOWN_VALUES = 4
_SHOWN_TEXT = 40


def read_logs(value: object) -> dict[str, LogValue]:
    """Convert JSON values to logs. Raise ValueError for other values.

    The texts "NaN", "Infinity" and "-Infinity" become numbers, which JSON does not have.
    """
    if not isinstance(value, Mapping):
        raise ValueError("logs must be a mapping of names to values")
    return {_read_name(name): _read(inner) for name, inner in value.items()}


def _read(value: object) -> LogValue:
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return tuple(_read(inner) for inner in value)
    if isinstance(value, Mapping):
        return {_read_name(name): _read(inner) for name, inner in value.items()}
    raise ValueError(f"a {type(value).__name__} is not a value of a log")


def _read_name(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError("a name in the logs is not text")
    return name


def number(logs: Logs, name: str) -> float | None:
    """Return the number that a policy calls `name`; None if there is no such single number.

    A metric that contains one value counts as that value, as in Keras's callbacks.
    """
    value, problem, _ = _find(logs, name)
    return None if problem else _as_float(value)


def numbers(value: LogValue) -> Iterator[float]:
    """Yield each number in a value, in order."""
    if isinstance(value, tuple):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from numbers(inner)
    else:
        found = _as_float(value)
        if found is not None:
            yield found


def why_absent(
    logs: Logs, name: str, *, came: Collection[str] = (), validation: Validation = "done"
) -> str:
    """Return why the number that a policy calls `name` is missing at the end of an epoch.

    came: names that earlier epochs reported.
    validation: `done` if this epoch was validated, `later` if a later one may be, `none` if
        `fit` has no validation data.

    Returns one sentence. It is empty if the number is there, or not in each epoch.
    """
    value, problem, known = _find(logs, name)
    if known:
        return problem or _why_no_number(value, name)
    metric, path = _split(name)
    if metric in came or name in came or (name.startswith("val_") and validation == "later"):
        return ""
    near = suggest(metric, logs) if logs else ""
    if near.startswith("did"):
        near = near[:-2] + f'{path}"?'
    else:
        near = f"fit reported {', '.join(sorted(logs)) or 'nothing'}"
    needs = name.startswith("val_") and validation == "none"
    hint = "; metrics with val_ need validation_data" if needs else ""
    return f"the policy uses {name}, which was not reported by the end of an epoch: {near}{hint}"


def value_text(value: LogValue) -> str:
    """Return a value in a few characters, for a listing."""
    if isinstance(value, str):
        return value if len(value) <= _SHOWN_TEXT else f"{value[: _SHOWN_TEXT - 3]}..."
    if isinstance(value, tuple):
        return f"[{_some([value_text(each) for each in value[:_SHOWN_VALUES]], len(value))}]"
    if isinstance(value, Mapping):
        first = list(value)[:_SHOWN_VALUES]
        return f"{{{_some([f'{key}={value_text(value[key])}' for key in first], len(value))}}}"
    found = _as_float(value)
    return "none" if found is None else f"{found:.4g}"


def _some(shown: list[str], count: int) -> str:
    more = [f"... {count} values"] if count > len(shown) else []
    return " ".join([*shown, *more])


def _as_float(value: LogValue) -> float | None:
    while isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, bool | int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of more than 300 digits
        return math.inf if value > 0 else -math.inf


def _find(logs: Logs, name: str) -> tuple[LogValue, str, bool]:
    """Return the value called `name`, what is wrong with its path, and whether its metric exists.

    The longest name that is in the logs is the metric, since its name may contain brackets.
    """
    if name in logs:
        return logs[name], "", True
    metric, path = _split(name)
    keys = re.findall(r"\[([^\[\]]+)\]", path)
    for count in range(len(keys) - 1, -1, -1):
        at = metric + "".join(f"[{key}]" for key in keys[:count])
        if at in logs:
            return *_resolve(logs[at], at, keys[count:]), True
    return None, "", False


def _split(name: str) -> tuple[str, str]:
    match = _NAME.fullmatch(name)
    return (match["metric"], match["path"]) if match else (name, "")


def _resolve(value: LogValue, at: str, keys: list[str]) -> tuple[LogValue, str]:
    for key in keys:
        if isinstance(value, tuple):
            if not (_INDEX.fullmatch(key) and int(key) < len(value)):
                return None, f"{at}[{key}] is not there: {_has(value, at)}"
            value = value[int(key)]
        elif isinstance(value, Mapping):
            if key not in value:
                return None, f"{at}[{key}] is not there: {suggest(key, value)}"
            value = value[key]
        elif key != "0" or _as_float(value) is None:
            # Some versions of NumPy and Keras convert an array with one value to a number.
            found = _why_no_number(value, at) or f"{at} is one number"
            return None, f"{at}[{key}] is not there: {found}"
        at = f"{at}[{key}]"
    return value, ""


def _has(value: tuple[LogValue, ...], at: str) -> str:
    if not value:
        return f"{at} is empty"
    return f"{at} has {len(value)} values, {at}[0] to {at}[{len(value) - 1}]"


def _why_no_number(value: LogValue, name: str) -> str:
    if _as_float(value) is not None:
        return ""
    if isinstance(value, str):
        return f"{name} is not a number but text, {show(value)}"
    if value is None:
        return f"{name} is None"
    if not value:
        return f"{name} is empty"
    return f"{name} has {_count(value)} values; name one, such as {_first(value, name)}"


def _count(value: LogValue) -> int:
    if isinstance(value, tuple):
        return sum(map(_count, value))
    return sum(map(_count, value.values())) if isinstance(value, Mapping) else 1


def _first(value: LogValue, name: str) -> str:
    while value and isinstance(value, tuple | Mapping):
        key = 0 if isinstance(value, tuple) else next(iter(value))
        value = value[key]  # type: ignore[index]
        name = f"{name}[{key}]"
    return name
