"""From the start of a process to its first step, beside stock `load_weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from workloads import Scale, age, batches, forget, median, standard

import keras_savekit as sk
from figures import Found, Row, table, values

TITLE = "Resume"
ABOUT = (
    "Seconds from the start of the process to the end of the first batch: imports, building the"
    " model, loading weights and optimizer, and tracing. The files are not in the page cache."
    " `SaveKit` also compares every tensor with its digest and restores the position, the"
    " generators and the callbacks."
)
REPEATS = 3
STOCK, OURS, NEITHER = "load_weights (.weights.h5)", "SaveKit", "nothing loaded"
POLICY = {"plans": [{"name": "p", "when": "every 1000 steps", "keep": "last 2"}]}


def sides(scale: Scale) -> list[str]:
    """Three ways to begin."""
    return [NEITHER, STOCK, OURS]


class First(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes how old the process is when the first batch is done."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """The first one ends it."""
        self.age = age()
        self.model.stop_training = True

    def get_state(self) -> dict[str, Any]:
        """Nothing: it watches one session."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing."""


def prepare(place: Path, scale: Scale) -> None:
    """One checkpoint of ours and one of Keras, of the same model."""
    model = standard(scale)
    plan = {**POLICY["plans"][0], "when": "every 2 steps"}
    kit = sk.SaveKit({"plans": [plan]}, directory=place / "ours")
    _fit(model, 2, kit)
    model.save_weights(place / "stock.weights.h5")


def _fit(model: keras.Model, epochs: int, *callbacks: Any) -> None:
    data = batches(model, 64)
    given = {"steps_per_epoch": 3, "epochs": epochs, "verbose": 0, "shuffle": False}
    model.fit(data, callbacks=list(callbacks), **given)


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Begin, and stop after a batch."""
    files = [place / "stock.weights.h5", *(place / "ours").glob("checkpoints/*/*")]
    forget(each for each in files if each.is_file())
    model = standard(scale)
    first = First()
    callbacks: list[Any] = [first]
    if side == STOCK:
        model.optimizer.build(model.trainable_variables)
        model.load_weights(place / "stock.weights.h5")
    elif side == OURS:
        callbacks.append(sk.SaveKit(POLICY, directory=place / "ours"))
    _fit(model, 100, *callbacks)
    return {"age": first.age}


def rows(found: Found) -> list[Row]:
    """Ours against stock."""
    ours, stock = (median(values(found, side, "age")) for side in (OURS, STOCK))
    return [
        Row(
            "resume: process start to first step, against stock `load_weights`",
            "at most 1.2 times",
            f"{ours / stock:.2f} times ({ours:.1f} s against {stock:.1f} s)",
            ours <= 1.2 * stock,
        )
    ]


def told(found: Found) -> list[str]:
    """All three."""
    return table(
        ["", "seconds", "median"],
        [
            [
                side,
                ", ".join(f"{each:.2f}" for each in values(found, side, "age")),
                f"{median(values(found, side, 'age')):.2f} s",
            ]
            for side in found
        ],
    )
