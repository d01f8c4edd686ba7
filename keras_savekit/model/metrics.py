"""Build a compiled model's metric variables before its first step does."""

from __future__ import annotations

from typing import Any

from keras_savekit.data.source import without_autotuning


def build(model: Any, first_batch: Any) -> None:
    """Build the metrics and the loss with one evaluation step on a dataset of one batch.

    The step changes metric values, and everything that a layer changes when it is called. The
    caller restores both.
    """
    history = model.history  # of the calling `fit`; older versions of Keras replace it
    # Not `test_on_batch`: older versions of Keras fail there while metrics are not built.
    model.evaluate(without_autotuning(first_batch.repeat()), steps=1, verbose=0)
    model.reset_metrics()
    model.history = history
