"""Compare a loaded model with its source: outputs on one batch, bit for bit."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_savekit.convert.conversion import Conversion
from keras_savekit.errors import ConversionError

SEED = 0
BATCH = 2


def compare(conversion: Conversion, model: Any, size: int) -> str | None:
    """Return the first difference between the source and `model`, or None.

    size: the size of open axes except the batch.

    Raises ConversionError if the source does not take such a batch.
    """
    specs = keras.tree.flatten(conversion.traced.inputs)
    generator = np.random.default_rng(SEED)
    batch = [_draw(spec, size, generator) for spec in specs]
    for weight, value in zip(conversion.weights, conversion.values, strict=True):
        weight.variable.assign(value)  # of the checkpoint, if the conversion used one
    try:
        expected = conversion.traced.inference(*batch)
    except (tf.errors.OpError, ValueError) as error:
        message = str(error).strip().splitlines()[0]
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in batch)
        what = f"the source does not take a batch of {shapes}: {message}"
        raise ConversionError(what, "", "give the size of its open axes with --size") from error
    found = model(keras.tree.pack_sequence_as(conversion.traced.inputs, batch))
    pairs = zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True)
    for index, (theirs, ours) in enumerate(pairs):
        if theirs.numpy().tobytes() != ours.numpy().tobytes():
            return f"output {index} differs from the source's on a batch drawn with seed {SEED}"
    return None


def _draw(spec: tf.TensorSpec, size: int, generator: np.random.Generator) -> tf.Tensor:
    first, *others = spec.shape
    shape = [BATCH if first is None else first, *(axis or size for axis in others)]
    if spec.dtype == tf.string:
        return tf.fill(shape, "a")
    if spec.dtype.is_floating or spec.dtype.is_complex:
        return tf.cast(generator.normal(size=shape), spec.dtype)
    return tf.cast(
        generator.integers(0, 2, shape), spec.dtype
    )  # 0 and 1 are valid indices of most tables
