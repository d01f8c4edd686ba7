"""What it adds that stock Keras loads every checkpoint, in a process beside the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sides import run
from workloads import Scale, median

from figures import Found, Row, mb, table, there, values

TITLE = "Verification by loading"
ABOUT = (
    "443 steps on both cores, a save every 12, from the first batch's begin to the last one's end,"
    " in turns. Files are digested, or loaded by stock Keras too, every one of 36; building the"
    " model for the first is part of it. The process that loads has started before the first"
    " batch: importing TensorFlow and Keras takes it as long as it takes the training, whatever"
    " is then trained."
)
REPEATS = 5
BYTES, LOAD = "SaveKit", "SaveKit, verify: load"


def sides(scale: Scale) -> list[str]:
    """Without and with."""
    return [BYTES, LOAD]


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Train beside one of them."""
    return run(side, place / "run", scale, every=scale(12, 2), saves=scale(36, 2))


def rows(found: Found) -> list[Row]:
    """What loading adds, how late it is, and what its process takes."""
    without, seconds = (median(values(found, side, "seconds")) for side in (BYTES, LOAD))
    more = seconds / without - 1
    lag = values(found, LOAD, "lag")
    left = sum(values(found, LOAD, "left out"))
    child = max(values(found, LOAD, "child"))
    started = median(values(found, LOAD, "started"))
    return [
        Row(
            "overhead of `verify: load` at every save, beyond `verify: bytes`",
            "at most 5 % more, lag bounded",
            f"{more:+.1%}; lag {median(lag):.1f} s, at most {max(lag):.1f} s;"
            f" {left:.0f} saves left out; the child's memory {mb(child)}, and once, when it"
            f" starts, {started:.1f} s of a core",
            more <= 0.05 and left == 0,
        )
    ]


def _more(found: Found, side: str) -> str:
    if side == BYTES:
        return ""
    with_it, without = (median(values(found, each, "computed")) for each in (side, BYTES))
    return f"{(with_it - without) / found[side][0]['saves']:.2f} s"


def told(found: Found) -> list[str]:
    """Both, in each run."""
    return table(
        ["", "seconds", "processor more, a save", "to durable", "lag to verified"],
        [
            [
                f"`{side}`",
                ", ".join(f"{each:.1f}" for each in values(found, side, "seconds")),
                _more(found, side),
                f"{median(values(found, side, 'durable')):.2f} s",
                f"{median(values(found, side, 'lag')):.2f} s",
            ]
            for side in there(found)
        ],
    )
