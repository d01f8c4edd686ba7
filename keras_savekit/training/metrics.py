"""Giving a compiled model its metric variables before the first step does."""

from __future__ import annotations

from typing import Any

import keras


def build(model: Any, data: Any) -> None:
    """Build the metrics and the loss by one evaluation step on the first batch of `data`.

    What the step changes (metric values, and whatever a layer changes when it
    is called) is for the caller to restore.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(next(iter(data)))
    model.test_on_batch(x, y, sample_weight)
    model.reset_metrics()
