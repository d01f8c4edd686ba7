"""Giving a compiled model its metric variables before the first step does."""

from __future__ import annotations

from typing import Any

from keras_savekit.data.source import without_autotuning


def build(model: Any, first_batch: Any) -> None:
    """Build the metrics and the loss by one evaluation step on a dataset of one batch.

    What the step changes (metric values, and whatever a layer changes when it
    is called) is for the caller to restore.
    """
    history = model.history  # of the `fit` that calls; older versions of Keras put another in
    # Not `test_on_batch`: older versions of Keras fail there while metrics are not built.
    model.evaluate(without_autotuning(first_batch.repeat()), steps=1, verbose=0)
    model.reset_metrics()
    model.history = history
