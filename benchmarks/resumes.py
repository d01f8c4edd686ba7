"""What comes back when a training that was interrupted in mid-epoch is started again.

    python benchmarks/resumes.py

Every callback trains the same model on the same arrays, saves after every batch,
is interrupted in the second epoch, and is resumed as its documentation says, with
a model that was made anew. What it then holds at its first batch is compared with
the same training that nothing interrupted. Prints the table of docs/resume.md. `OrbaxCheckpoint` is
tried where Keras has it and `orbax-checkpoint` is installed.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_savekit as sk

EPOCHS, BATCH, SAMPLES = 3, 4, 24
STEPS = SAMPLES // BATCH
STOP = STEPS + 3

Facts = dict[str, Any]


class StoppedError(Exception):
    """What stops the training."""


class RequestMonitor(keras.callbacks.Callback):  # type: ignore[misc]
    """What the training holds before each batch, and each batch's logs."""

    def __init__(self, stopping: Any, stop_after: int | None) -> None:
        super().__init__()
        self.stopping, self.left = stopping, stop_after
        self.held: list[Facts] = []
        self.logs: list[dict[str, float]] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Note everything."""
        model, optimizer = self.model, self.model.optimizer
        weights = {id(each) for each in model.weights}
        self.held.append(
            {
                "weights": _values(model.weights),
                "optimizer's slots": _values(
                    [each for each in optimizer.variables if len(each.shape)]
                ),
                "optimizer's count of steps": int(optimizer.iterations.numpy()),
                "seeds of layers": _values(
                    [each for each in model.variables if id(each) not in weights]
                ),
                "metrics in mid-epoch": _values(model.metrics_variables),
                "`EarlyStopping`": (
                    getattr(self.stopping, "best", None),
                    self.stopping.wait,
                ),
                "NumPy's generator": np.random.get_state()[1].tobytes(),
            }
        )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop where it was asked for."""
        self.logs.append({name: float(value) for name, value in logs.items()})
        np.random.random()
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise StoppedError

    def get_state(self) -> dict[str, Any]:
        """Nothing: it watches one session."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing."""


def _values(variables: Any) -> list[bytes]:
    return [np.asarray(each.numpy()).tobytes() for each in variables]


def model(seed: int) -> keras.Model:
    """A network with state of every kind, its layers named as in a new process."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    made = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ]
    )
    made.compile("adam", "mse", metrics=["mae"])
    return made


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Samples and targets."""
    x = np.random.default_rng(3).normal(size=(SAMPLES, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def backup(place: Path, made: keras.Model, fit: Callable[..., Any]) -> Any:
    """`BackupAndRestore`, which resumes by itself."""
    return fit(made, keras.callbacks.BackupAndRestore(str(place / "b"), save_freq=1))


def orbax(place: Path, made: keras.Model, fit: Callable[..., Any]) -> Any:
    """`OrbaxCheckpoint`; the user loads the newest checkpoint and says the epoch."""
    directory = str(place / "o")
    begun = Path(directory).is_dir()
    if begun:
        made.optimizer.build(made.trainable_variables)
        made.load_weights(directory)
    # Into the same directory it would raise StepAlreadyExistsError.
    into = directory + "-resumed" if begun else directory
    callback = keras.callbacks.OrbaxCheckpoint(into, save_freq=1, save_on_background=False)
    return fit(made, callback, initial_epoch=STOP // STEPS if begun else 0)


def savekit(place: Path, made: keras.Model, fit: Callable[..., Any]) -> Any:
    """`SaveKit`, which resumes by itself."""
    x, y = arrays()
    data = sk.resumable(x, y, batch_size=BATCH, seed=1)
    plan = {"name": "p", "when": "every 1 step", "keep": "last 1", "when_busy": "wait"}
    kit = sk.SaveKit({"plans": [plan]}, directory=place / "s", data=data)
    return fit(made, kit, data=data)


def session(
    run: Callable[..., Any], place: Path, seed: int, stop: int | None
) -> tuple[RequestMonitor, keras.Model, Any]:
    """One `fit`, interrupted after `stop` batches."""
    made = model(seed)
    stopping = keras.callbacks.EarlyStopping("loss", patience=50)
    watch = RequestMonitor(stopping, stop)

    def fit(made: keras.Model, callback: Any, data: Any = None, initial_epoch: int = 0) -> Any:
        # Ours goes last in the list; before the others, the interruption would hide a save.
        ours = isinstance(callback, sk.SaveKit)
        callbacks = [stopping, watch, callback] if ours else [stopping, callback, watch]
        given = {"callbacks": callbacks, "epochs": EPOCHS, "verbose": 0}
        if data is not None:
            return made.fit(data, shuffle=False, **given)
        x, y = arrays()
        return made.fit(x, y, batch_size=BATCH, initial_epoch=initial_epoch, **given)

    try:
        history = run(place, made, fit)
    except StoppedError:
        history = None
    return watch, made, history


def facts(run: Callable[..., Any]) -> dict[str, bool]:
    """What of a training comes back."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "whole").mkdir()
        whole, trained, history = session(run, Path(place) / "whole", 7, None)
        (Path(place) / "cut").mkdir()
        session(run, Path(place) / "cut", 7, STOP)
        again, resumed, after = session(run, Path(place) / "cut", 99, None)
    before, first = whole.held[STOP], again.held[0]
    found = {name: first[name] == before[name] for name in first}
    found["the batch in the epoch"] = len(again.logs) == EPOCHS * STEPS - STOP
    found["every later loss"] = again.logs == whole.logs[STOP:]
    found["the history `fit` returns"] = after.history == history.history
    found["the trained model, bit for bit"] = _values(resumed.weights) == _values(trained.weights)
    return found


def main() -> None:
    """Print the table."""
    tried: dict[str, Callable[..., Any]] = {"`BackupAndRestore`": backup}
    if hasattr(keras.callbacks, "OrbaxCheckpoint") and importlib.util.find_spec("orbax"):
        tried["`OrbaxCheckpoint`"] = orbax
    else:
        print("orbax-checkpoint is not installed: OrbaxCheckpoint is left out\n")
    tried["`SaveKit`"] = savekit
    columns = {name: facts(run) for name, run in tried.items()}
    print(f"| Keras {keras.__version__} | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for row in next(iter(columns.values())):
        cells = ["yes" if each[row] else "no" for each in columns.values()]
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
