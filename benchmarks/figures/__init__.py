"""The figures, a group a module.

A module has

    TITLE, ABOUT                what is measured, and how
    sides(scale)                names of what is measured side by side
    measure(side, place, scale) measures one in this process; `place` is a directory that
                                the group's measurements share
    rows(found)                 the targets of the group, `found` being side -> measurements
    told(found)                 lines of Markdown with everything else

and may have REPEATS (measurements of each side, in turns; a number or a function of the
side), `prepare(place, scale)`, which is done once and not timed, and `plot(found, path)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GROUPS = (
    "stalls",
    "sizes",
    "overhead",
    "loading",
    "idle",
    "resume",
    "commands",
    "reuse",
    "device",
    "profile",
)
Found = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, what it is to be, and what it was.

    met: None where it could not be measured; `measured` then says why.
    """

    figure: str
    target: str
    measured: str
    met: bool | None


def group(name: str) -> Any:
    """The module of a group."""
    return importlib.import_module(f"figures.{name}")


def values(found: Found, side: str, what: str) -> list[float]:
    """One figure of a side, of all its measurements; lists are joined."""
    gathered: list[float] = []
    for each in found.get(side, ()):
        value = each.get(what, [])
        gathered += value if isinstance(value, list) else [value]
    return gathered


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return ["| " + " | ".join(row) + " |" for row in rows]


def skipped(found: Found) -> list[list[str]]:
    """The sides that could not be measured, and why."""
    return [[side, each[0]["skipped"]] for side, each in found.items() if "skipped" in each[0]]


def there(found: Found) -> list[str]:
    """The sides that were measured."""
    return [side for side, each in found.items() if "skipped" not in each[0]]


def ms(seconds: float) -> str:
    """Milliseconds, to three digits."""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds * 1000:.0f} ms"


def mb(count: float) -> str:
    """Megabytes."""
    return f"{count / 1e6:.0f} MB" if count >= 10e6 else f"{count / 1e6:.2g} MB"
