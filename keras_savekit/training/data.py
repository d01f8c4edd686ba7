"""Data whose order is a function of (seed, epoch), and that can start at any batch.

`fit` asks a dataset for its batches and tells nobody which epoch it is in.
Here the position (epoch, first batch) is a variable that the dataset reads when
an epoch's first batch is drawn, so that whoever knows where training stands can
set it; what is downstream (`map`, `prefetch`) does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_savekit.errors import DataError

_ATTRIBUTE = "_savekit_source"


class Source:
    """The position of a resumable dataset, and what identifies its order.

    steps_per_epoch: batches in a whole epoch.
    identity: what must be equal for two sources to give the same order.
    """

    def __init__(
        self, position: tf.Variable, steps_per_epoch: int, identity: Mapping[str, Any]
    ) -> None:
        self._position = position
        self.steps_per_epoch = steps_per_epoch
        self.identity = dict(identity)

    def start(self, epoch: int, batch: int) -> None:
        """The next epoch drawn is `epoch`, from its batch `batch` on (both from 0)."""
        self._position.assign([epoch, batch])


def source_of(data: Any) -> Source:
    """The source behind what `resumable` returned; DataError for anything else."""
    source = getattr(data, _ATTRIBUTE, None)
    if not isinstance(source, Source):
        raise DataError(
            f"data= takes what keras_savekit.resumable() returned, got {type(data).__name__}",
            "",
            "give it the dataset from before any .map() or .prefetch(); fit may have what follows",
        )
    return source


def resumable(
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int = 0,
) -> tf.data.Dataset:
    """Arrays as a `tf.data.Dataset` from which a training resumes in mid-epoch.

    x, y, sample_weight: arrays or nested structures of arrays, all with the same
        first dimension (samples). What is None is left out of the batches.
    batch_size: samples in a batch; the last one of an epoch may have fewer.
    shuffle: whether each epoch has an order of its own, a function of `seed` and
        the epoch alone. Starting at any batch takes no time.

    Give the result to `fit` and to the callback: `SaveKit(policy, data=data)`.
    Without the callback the epochs follow each other as they are drawn.

    Raises DataError for arrays of different lengths, no samples, or a batch size
    below 1.

    The order of an epoch comes from `tf.random.experimental.index_shuffle`, a
    permutation computed index by index.
    """
    parts = (x,) if y is None else (x, y) if sample_weight is None else (x, y, sample_weight)
    if sample_weight is not None and y is None:
        raise DataError("sample_weight= needs y=", "", "give the targets too")
    samples = _count_samples(parts)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise DataError(f"batch_size must be an integer of 1 or more, got {batch_size!r}")
    arrays = tf.nest.map_structure(tf.convert_to_tensor, parts)
    steps = -(-samples // batch_size)
    position = tf.Variable([0, 0], dtype=tf.int64, trainable=False, name="savekit_position")

    def order(indices: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        if not shuffle:
            return indices
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        return tf.random.experimental.index_shuffle(indices, key, samples - 1)

    def batch_of(number: tf.Tensor, epoch: tf.Tensor) -> Any:
        first = number * batch_size
        indices = order(tf.range(first, tf.minimum(first + batch_size, samples)), epoch)
        if samples % batch_size == 0:
            indices = tf.ensure_shape(indices, (batch_size,))
        advance = tf.where(number == steps - 1, tf.stack([epoch + 1, 0]), position.read_value())
        with tf.control_dependencies([position.assign(advance)]):
            return tf.nest.map_structure(lambda array: tf.gather(array, indices), arrays)

    def epoch_from_position(_: tf.Tensor) -> tf.data.Dataset:
        epoch, first = tf.unstack(position.read_value())
        return tf.data.Dataset.range(first, steps).map(lambda number: batch_of(number, epoch))

    dataset = tf.data.Dataset.from_tensors(0).flat_map(epoch_from_position)
    # An epoch may start in its middle, so TensorFlow cannot know its length; Keras asks here.
    dataset.cardinality = lambda: tf.constant(steps, tf.int64)
    identity = {
        "kind": "arrays",
        "seed": int(seed),
        "shuffle": bool(shuffle),
        "batch_size": batch_size,
        "samples": samples,
        "arrays": [
            f"{array.dtype.name}{array.shape.as_list()}" for array in tf.nest.flatten(arrays)
        ],
    }
    setattr(dataset, _ATTRIBUTE, Source(position, steps, identity))
    return dataset


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
