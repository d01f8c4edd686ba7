"""How fast `fit` runs on `resumable` arrays and on the arrays themselves, side by side.

    python benchmarks/data.py [--epochs 4]

Prints seconds from the first to the last batch of an epoch, the least of all
epochs but the first, and their ratio. A network of almost nothing, so that the
data is what is measured. Both orders are shuffled anew in each epoch.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import keras
import numpy as np

import keras_savekit as sk

SHAPES = {
    "60000 x 784, batches of 32": (60000, (784,), 32),
    "60000 x 784, batches of 256": (60000, (784,), 256),
    "4000 x 96 x 96 x 3, batches of 32": (4000, (96, 96, 3), 32),
}


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Seconds from each epoch's first to its last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the time of every batch; the first and the last count."""
        now = time.perf_counter()
        if batch == 0:
            self._first = now
        self._last = now

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """An epoch is done."""
        self.seconds.append(self._last - self._first)


def model(shape: tuple[int, ...]) -> keras.Model:
    """One number of each sample, and one weight."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    axes = tuple(range(1, len(shape) + 1))
    means = keras.layers.Lambda(lambda x: keras.ops.mean(x, axis=axes)[:, None])(inputs)
    made = keras.Model(inputs, keras.layers.Dense(1)(means))
    made.compile("sgd", "mse")
    return made


def seconds(samples: int, shape: tuple[int, ...], batch_size: int, epochs: int) -> list[float]:
    """Of stock and of resumable arrays, in turns."""
    x = np.random.default_rng(0).normal(size=(samples, *shape)).astype("float32")
    y = np.zeros((samples, 1), "float32")
    best = [float("inf")] * 2
    data = sk.resumable(x, y, batch_size=batch_size, seed=1)
    made = model(shape)
    for _ in range(2):
        for which in range(2):
            watch = Epochs()
            given: dict[str, Any] = {"epochs": epochs, "verbose": 0, "callbacks": [watch]}
            if which:
                made.fit(data, shuffle=False, **given)
            else:
                made.fit(x, y, batch_size=batch_size, shuffle=True, **given)
            best[which] = min(best[which], *watch.seconds[1:])
    return best


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--epochs", type=int, default=4)
    epochs = arguments.parse_args().epochs
    print("| arrays | `fit(x, y)` | `fit(resumable(x, y))` | ratio |\n|---|---|---|---|")
    for name, (samples, shape, batch_size) in SHAPES.items():
        stock, ours = seconds(samples, shape, batch_size, epochs)
        print(f"| {name} | {stock:.2f} s | {ours:.2f} s | {ours / stock:.2f} |", flush=True)


if __name__ == "__main__":
    main()
