"""Durations, sizes and shares, as people write them: `1h30m`, `20GB`, `5%`.

Each reader takes a plain number too, in seconds, bytes or as a fraction, and
each writer gives text that its reader reads back as the same number.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator, Field

from keras_savekit.base.text import number_text, show
from keras_savekit.policy.fields import as_number, wrong

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DECIMAL = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DOWNWARD = sorted({**_DECIMAL, **_BINARY}.items(), key=lambda unit: -unit[1])
_BYTES = {unit.lower(): size for unit, size in {**_DECIMAL, **_BINARY}.items()}
_AMOUNT = r"(\d+(?:\.\d*)?|\.\d+)"
_PARTS = re.compile(rf"{_AMOUNT}\s*([dhms])")
_SIZE = re.compile(rf"{_AMOUNT}\s*([a-z]+)", re.IGNORECASE)
_LARGEST_SIZE = 10**17


def is_duration(text: str) -> bool:
    """Whether `text` has the form of a duration with units, largest first, such as 1h30m."""
    units = "".join(unit for _, unit in _PARTS.findall(text))
    in_order = bool(units) and re.fullmatch("d?h?m?s?", units) is not None
    return in_order and not _PARTS.sub("", text).strip()


def as_duration(value: object) -> float:
    """Seconds, from a number or from text such as 10m, 1h30m or 7d."""
    if isinstance(value, str) and is_duration(value):
        value = sum(float(amount) * _SECONDS[unit] for amount, unit in _PARTS.findall(value))
    elif isinstance(value, str) and not value[-1:].isdigit():
        raise wrong(f"must be a duration such as 90s, 10m, 1h30m or 7d, got {show(value)}")
    return float(as_number(value))


def duration_text(seconds: float) -> str:
    """Return a text such as `1h30m`; fractions of a second as seconds alone."""
    if seconds != int(seconds) or not seconds:
        return f"{seconds:f}".rstrip("0").rstrip(".") + "s" if _exact(seconds) else repr(seconds)
    left, text = int(seconds), ""
    for unit, length in _SECONDS.items():
        count, left = divmod(left, length)
        text += f"{count}{unit}" if count else ""
    return text


def _exact(seconds: float) -> bool:
    return float(f"{seconds:f}") == seconds


def as_size(value: object) -> int:
    """Bytes, from a number or from text such as 512MiB or 20GB."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        amount, unit = match.groups()
        if unit.lower() not in _BYTES:
            known = ", ".join((*_DECIMAL, *_BINARY))
            raise wrong(f"unknown unit {show(unit)}; allowed: {known}")
        value = round(Fraction(amount.rstrip(".")) * _BYTES[unit.lower()])
    elif isinstance(value, str) and not value[-1:].isdigit():
        raise wrong(f"must be a size such as 512MiB or 20GB, got {show(value)}")
    number = as_number(value)
    if number > _LARGEST_SIZE:
        raise wrong(f"must be at most {size_text(_LARGEST_SIZE)}, got {show(value)}")
    return round(number)


def size_text(size: int) -> str:
    """The size in the largest unit that divides it: `20GB`, `512MiB`, `1500B`."""
    return next(f"{size // length}{unit}" for unit, length in _DOWNWARD if size % length == 0)


def as_share(value: object) -> float:
    """A fraction between 0 and 1, from a number or from text such as 5%."""
    if isinstance(value, str) and value.rstrip().endswith("%"):
        number = as_number(value.rstrip()[:-1].rstrip()) / 100
    else:
        number = as_number(value)
        if number >= 1:
            raise wrong(f"must be a share such as 5% or 0.05, got {show(value)}")
    if not 0 < number < 1:
        raise wrong(f"must be more than 0% and less than 100%, got {show(value)}")
    return float(number)


def share_text(share: float) -> str:
    """Return a text such as `5%`, where that reads back as the same number; else the fraction."""
    text = f"{number_text(round(share * 100, 10))}%"
    return text if as_share(text) == share else repr(share)


Duration = Annotated[float, BeforeValidator(as_duration), Field(gt=0)]
Wait = Annotated[float, BeforeValidator(as_duration), Field(ge=0)]
Size = Annotated[int, BeforeValidator(as_size), Field(gt=0)]
Share = Annotated[float, BeforeValidator(as_share)]
