"""What it adds that stock Keras loads every checkpoint, in a process beside the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sides import logged
from turns import Turns, more
from workloads import Scale, median, standard

import keras_savekit as sk
from figures import Found, Row, mb, table, values

TITLE = "Verification by loading"
ABOUT = (
    "One training of 611 steps of 256 samples on both cores saves every 12 steps, about every two"
    " seconds. Two plans take turns of six saves: `verify: bytes` and `verify: load`. Compared"
    " turns are therefore seconds apart. The first two saves are loaded too and counted"
    " separately: the verifying process then builds the model and fetches its memory for the first"
    " time. That process starts before the first batch, because it imports TensorFlow and Keras"
    " for as long as the training does."
)
SIDE = "SaveKit, verify: bytes and verify: load in turns"
REPEATS = 2
DEPTHS = ("bytes", "load")


def sides(scale: Scale) -> list[str]:
    """It compares with itself."""
    return [SIDE]


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Train beside both plans."""
    turns = Turns(DEPTHS, rounds=scale(4, 1), saves=6, every=scale(12, 2), before=2)
    plans = [
        {
            "name": depth,
            "when": {"steps": [*turns.due_before * (depth == "load"), *turns.due(depth)]},
            "keep": "last 1",
            "verify": depth,
        }
        for depth in DEPTHS
    ]
    kit = sk.SaveKit({"resume": "never", "plans": plans}, directory=place / "run")
    return turns.train(standard(scale), kit) | logged(place / "run", "load")


def rows(found: Found) -> list[Row]:
    """What loading adds, how late it is, and what its process takes."""
    slower = median(more(run, "seconds", "load", "bytes") for run in found[SIDE])
    lag = values(found, SIDE, "lag")
    depths = [depth for run in found[SIDE] for depth in run["depths"]]
    loaded = depths.count("load")
    child = max(values(found, SIDE, "child"))
    started = median(values(found, SIDE, "started"))
    return [
        Row(
            "overhead of `verify: load` at every save, beyond `verify: bytes`",
            "at most 5 % more, lag bounded",
            f"{slower:+.1%}; lag {median(lag):.1f} s, at most {max(lag):.1f} s;"
            f" {loaded} of {len(depths)} loaded; the child uses {mb(child)} of memory and, once,"
            f" when it starts, {started:.1f} s of a core",
            slower <= 0.05 and loaded == len(depths),
        )
    ]


def told(found: Found) -> list[str]:
    """Each run."""
    header = ["run", "without", "with", "more time", "more of the processor", "lag to verified"]
    lines = []
    for number, run in enumerate(found[SIDE], 1):
        seconds = [", ".join(f"{each:.2f}" for each in run[f"seconds {who}"]) for who in DEPTHS]
        grown = [f"{more(run, what, 'load', 'bytes'):+.1%}" for what in ("seconds", "computed")]
        lines.append([str(number), *seconds, *grown, f"{median(run['lag']):.2f} s"])
    return [f"`{SIDE}`, seconds of each turn:", "", *table(header, lines)]
