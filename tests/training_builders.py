"""Builders: models and data small enough to be trained in every test, and what happened to them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import xxhash

import keras_savekit as sk
from keras_savekit.formats import checkpoint as checkpoint_files

SAMPLES, BATCH = 22, 4
STEPS = 6  # batches in an epoch; the last one is partial


def arrays(samples: int = SAMPLES):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(samples, 3)).astype(np.float32)
    return x, x.sum(axis=1, keepdims=True)


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Else `fit` returns seconds after its last batch."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def held_out(batch_size: int = 32) -> tf.data.Dataset:
    """The arrays once more, to validate on."""
    return without_autotuning(tf.data.Dataset.from_tensor_slices(arrays()).batch(batch_size))


def data(seed: int = 5, **changes: Any):
    return sk.resumable(*arrays(), **{"batch_size": BATCH, "seed": seed, **changes})


def model(units: int = 4, seed: int = 7, **compiled: Any) -> keras.Model:
    """Dropout and batch normalization: what goes wrong when state is missing."""
    keras.utils.set_random_seed(seed)
    made = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ]
    )
    made.compile(**{"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **compiled})
    return made


def plan(when: Any = "every 2 steps", name: str = "p", **changes: Any) -> dict[str, Any]:
    return {"name": name, "when": when, "verify": "bytes", **changes}


def policy(*plans: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"plans": list(plans) or [plan()], **changes}


def fit(
    made: keras.Model, kit: Any, *before: Any, on: Any = None, epochs: int = 2, **arguments: Any
):
    """`fit` with the kit last, quietly; on resumable data unless told otherwise."""
    given = {"verbose": 0, "shuffle": False, "callbacks": [*before, kit], **arguments}
    return made.fit(data() if on is None else on, epochs=epochs, **given)


def digest(made: keras.Model) -> str:
    """Of every variable: weights, seeds, optimizer and metrics."""
    found = xxhash.xxh3_128()
    for variable in [*made.variables, *made.optimizer.variables, *made.metrics_variables]:
        found.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return found.hexdigest()


def events(directory: Path, kind: str = "") -> list[dict[str, Any]]:
    lines = (directory / "events.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [each for each in found if each["kind"] == kind] if kind else found


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in (directory / "checkpoints").iterdir())


def wait_until(happened: Callable[[], Any], patience: float = 60) -> None:
    """Return when `happened()` is true; for what another thread or process does."""
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


class BatchLogs(keras.callbacks.Callback):
    """Every batch's logs, by the step counted from the beginning of the first session."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(dict(logs))

    def get_state(self):
        return {"seen": self.seen}

    def set_state(self, state):
        self.seen = list(state["seen"])


class Noise(keras.callbacks.Callback):
    """Draws from every generator that a callback might draw from, and remembers the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        drawn = random.random() + np.random.random()
        self.sums.append(drawn + float(tf.random.uniform(())))

    def get_state(self):
        return {"sums": np.array(self.sums)}

    def set_state(self, state):
        self.sums = list(state["sums"])


class Interrupt(keras.callbacks.Callback):
    """Raises `error` at the end of the n-th batch of this `fit`."""

    def __init__(self, after: int, error: BaseException | None = None) -> None:
        super().__init__()
        self.left = after
        self.error = error or KeyboardInterrupt()

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise self.error

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


def damage_steps(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """The first checkpoint of each of these steps has a wrong bit once it is written."""
    write, left = checkpoint_files.write, set(steps)

    def damaging(directory: Path, snapshot: Any, *rest: Any) -> Any:
        manifest = write(directory, snapshot, *rest)
        if snapshot.moment.step in left:
            left.discard(snapshot.moment.step)
            path = directory / manifest.model_file
            found = bytearray(path.read_bytes())
            found[-1] ^= 1
            path.write_bytes(found)
        return manifest

    monkeypatch.setattr(checkpoint_files, "write", damaging)
