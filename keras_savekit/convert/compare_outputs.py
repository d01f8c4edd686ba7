"""Whether a converted model, read back, does what its source does: on one batch, bit for bit."""

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
    """What differs between the source and `model`; None if nothing does.

    size: of axes that have none, the batch aside.

    Raises ConversionError if the source does not take such a batch.
    """
    specs = keras.tree.flatten(conversion.traced.inputs)
    generator = np.random.default_rng(SEED)
    batch = [_drawn(spec, size, generator) for spec in specs]
    for captured, value in zip(conversion.weights, conversion.values, strict=True):
        captured.variable.assign(value)  # those of a checkpoint, if one was given
    try:
        expected = conversion.traced.inference(*batch)
    except (tf.errors.OpError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        shapes = ", ".join(str(tuple(each.shape)) for each in batch)
        what = f"the source does not take a batch of {shapes}: {said}"
        raise ConversionError(what, "", "give the size of its open axes with --size") from error
    found = model(keras.tree.pack_sequence_as(conversion.traced.inputs, batch))
    pairs = zip(keras.tree.flatten(expected), keras.tree.flatten(found), strict=True)
    for index, (theirs, ours) in enumerate(pairs):
        if theirs.numpy().tobytes() != ours.numpy().tobytes():
            return f"output {index} differs from the source's on a batch drawn with seed {SEED}"
    return None


def _drawn(spec: tf.TensorSpec, size: int, generator: np.random.Generator) -> tf.Tensor:
    first, *others = spec.shape
    shape = [BATCH if first is None else first, *(each or size for each in others)]
    if spec.dtype == tf.string:
        return tf.fill(shape, "a")
    if spec.dtype.is_floating or spec.dtype.is_complex:
        return tf.cast(generator.normal(size=shape), spec.dtype)
    return tf.cast(generator.integers(0, 2, shape), spec.dtype)  # any index is in range
