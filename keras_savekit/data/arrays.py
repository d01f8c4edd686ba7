"""Arrays as resumable data: the order is computed index by index.

The position is a variable, and TensorFlow's graph reads it. So `map`, `prefetch`
and `repeat` may follow the dataset. The order of an epoch comes from
`tf.random.experimental.index_shuffle`, a pseudo-random permutation that needs no
list of all indices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import xxhash

from keras_savekit.data.source import Source, without_autotuning
from keras_savekit.errors import DataError


def from_arrays(
    x: Any, y: Any, sample_weight: Any, batch_size: int, seed: int | None
) -> tf.data.Dataset:
    """Return arrays as resumable data; see `resumable`. seed: None for the order of the arrays."""
    if sample_weight is not None and y is None:
        raise DataError("sample_weight= needs y=", "", "give the targets too")
    parts = (x,) if y is None else (x, y) if sample_weight is None else (x, y, sample_weight)
    samples = _count_samples(parts)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise DataError(f"batch_size must be an integer of 1 or more, got {batch_size!r}")
    arrays = tf.nest.map_structure(tf.convert_to_tensor, parts)
    steps = -(-samples // batch_size)
    position = tf.Variable([0, 0], dtype=tf.int64, trainable=False, name="savekit_position")

    def order(indices: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        if seed is None:
            return indices
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        return tf.random.experimental.index_shuffle(indices, key, samples - 1)

    def batch_of(number: tf.Tensor, epoch: tf.Tensor) -> Any:
        first = number * batch_size
        indices = order(tf.range(first, tf.minimum(first + batch_size, samples)), epoch)
        if samples % batch_size == 0:
            indices = tf.ensure_shape(indices, (batch_size,))
        return tf.nest.map_structure(lambda array: tf.gather(array, indices), arrays)

    def advance(number: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        after = tf.where(number == steps - 1, tf.stack([epoch + 1, 0]), position.read_value())
        with tf.control_dependencies([position.assign(after)]):
            return tf.identity(number)

    def epoch_from_position(_: tf.Tensor) -> tf.data.Dataset:
        epoch, first = tf.unstack(position.read_value())
        numbers = tf.data.Dataset.range(first, steps).map(lambda number: advance(number, epoch))
        # Two at a time, as stock Keras does: one at a time is slower than stock Keras.
        batches = numbers.map(
            lambda number: batch_of(number, epoch), num_parallel_calls=2, deterministic=True
        )
        return batches.prefetch(2)

    dataset = tf.data.Dataset.from_tensors(0).flat_map(epoch_from_position)
    dataset = without_autotuning(dataset)
    # A first epoch may be shorter, so TensorFlow does not know the length. Keras reads it here.
    dataset.cardinality = lambda: tf.constant(steps, tf.int64)
    first_batch = tf.data.Dataset.range(1).map(lambda number: batch_of(number, number))
    identity = {
        "kind": "arrays",
        "seed": None if seed is None else int(seed),
        "batch_size": batch_size,
        "samples": samples,
        "arrays": [
            f"{array.dtype.name}{array.shape.as_list()}" for array in tf.nest.flatten(arrays)
        ],
        "first_batch": _digest(next(iter(first_batch))),
    }
    source = Source(
        lambda epoch, batch: position.assign([epoch, batch]),
        first_batch,
        steps,
        identity,
        flows=True,
    )
    return source.attach(dataset)


def _count_samples(parts: Any) -> int:
    lengths = {
        len(np.atleast_1d(part)) if np.ndim(part) == 0 else len(part)
        for part in tf.nest.flatten(parts)
    }
    if len(lengths) != 1:
        raise DataError(f"arrays have different numbers of samples: {sorted(lengths)}")
    (samples,) = lengths
    if samples == 0:
        raise DataError("the arrays have no samples")
    return samples


def _digest(batch: Any) -> str:
    digest = xxhash.xxh3_64()
    for tensor in tf.nest.flatten(batch):
        value = tensor.numpy()
        strings = value.dtype.hasobject
        digest.update(repr(value.tolist()).encode() if strings else value.tobytes())
    return digest.hexdigest()
