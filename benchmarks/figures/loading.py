"""What it adds that stock Keras loads every checkpoint, in a process beside the training."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
from sides import logged
from workloads import Scale, computed, median, standard, train

import keras_savekit as sk
from figures import Found, Row, mb, table, values

TITLE = "Verification by loading"
ABOUT = (
    "One training of 899 steps on both cores, a save every 12 by one of two plans in turns, each"
    " six times before it is the other's turn: `verify: bytes` and `verify: load`. So what is"
    " compared lies seconds apart. The first two saves are loaded too, and told apart: then the"
    " model is built, and the process has its memory for the first time. It has started before"
    " the first batch: importing TensorFlow and Keras takes it as long as it takes the training,"
    " whatever is then trained."
)
SIDE = "SaveKit, verify: bytes and verify: load in turns"
REPEATS = 3
BEFORE, TURN, TURNS = 2, 6, 12  # saves, saves, and how many times, the first without loading


def sides(scale: Scale) -> list[str]:
    """It compares with itself."""
    return [SIDE]


class Spent(keras.callbacks.Callback):  # type: ignore[misc]
    """Processor seconds up to each of some steps, children's too."""

    def __init__(self, steps: list[int]) -> None:
        super().__init__()
        self._steps = set(steps)
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Note them before a step."""
        if batch in self._steps:
            self.seconds.append(computed())

    def get_state(self) -> dict[str, Any]:
        """Nothing: it watches one session."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing."""


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Train beside both plans."""
    every, turns = scale(12, 2), scale(TURNS, 2)
    saves = range(1, BEFORE + TURN * turns + 1)
    loaded = [save for save in saves if save <= BEFORE or (save - BEFORE - 1) // TURN % 2]
    digested = [save for save in saves if save not in loaded]
    plans = [
        {
            "name": depth,
            "when": {"steps": [every * save for save in due]},
            "keep": "last 1",
            "verify": depth,
        }
        for depth, due in (("bytes", digested), ("load", loaded))
    ]
    kit = sk.SaveKit({"resume": "never", "plans": plans}, directory=place / "run")
    begins = [every * (BEFORE + 1 + TURN * turn) for turn in range(turns + 1)]
    spent = Spent([every, *begins])
    found = train(
        standard(scale), kit, every=every, saves=len(saves) + 1, batch_size=64, before=[spent]
    )
    turned = [sum(found["steps"][begin:end]) for begin, end in pairwise(begins)]
    computed = [later - earlier for earlier, later in pairwise(spent.seconds)]
    return {
        "seconds without": turned[::2],
        "seconds with": turned[1::2],
        "computed before": computed[0],
        "computed without": computed[1::2],
        "computed with": computed[2::2],
        "started": found["started"],
        "child": found["child"],
        **logged(place / "run", "load"),
    }


def _more(found: Found, what: str, run: int) -> float:
    """How much more of something a run took with loading than without."""
    with_it, without = (sum(found[SIDE][run][f"{what} {how}"]) for how in ("with", "without"))
    return with_it / without - 1


def rows(found: Found) -> list[Row]:
    """What loading adds, how late it is, and what its process takes."""
    runs = range(len(found[SIDE]))
    more = median(_more(found, "seconds", run) for run in runs)
    lag = values(found, SIDE, "lag")
    depths = [depth for run in found[SIDE] for depth in run["depths"]]
    loaded = depths.count("load")
    child = max(values(found, SIDE, "child"))
    started = median(values(found, SIDE, "started"))
    return [
        Row(
            "overhead of `verify: load` at every save, beyond `verify: bytes`",
            "at most 5 % more, lag bounded",
            f"{more:+.1%}; lag {median(lag):.1f} s, at most {max(lag):.1f} s;"
            f" {loaded} of {len(depths)} loaded; the child's memory {mb(child)}, and once, when it"
            f" starts, {started:.1f} s of a core",
            more <= 0.05 and loaded == len(depths),
        )
    ]


def told(found: Found) -> list[str]:
    """Each run."""
    header = ["run", "without", "with", "more time", "more of the processor", "lag to verified"]
    lines = []
    for number, run in enumerate(found[SIDE]):
        seconds = [
            ", ".join(f"{each:.2f}" for each in run[f"seconds {how}"])
            for how in ("without", "with")
        ]
        more = (f"{_more(found, what, number):+.1%}" for what in ("seconds", "computed"))
        lines.append([str(number + 1), *seconds, *more, f"{median(run['lag']):.2f} s"])
    return [f"`{SIDE}`, seconds of each turn:", "", *table(header, lines)]
