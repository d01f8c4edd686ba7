"""Data whose order is a function of (seed, epoch), and that can start at any batch.

`fit` asks a dataset for its batches and tells nobody which epoch it is in. So
every kind of resumable data is a `tf.data.Dataset` with a position (epoch, first
batch) that is read when an epoch's first batch is drawn, and that whoever knows
where training stands can set. The kinds are in `data_arrays` and `data_epochs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_savekit.errors import DataError

_ATTRIBUTE = "_savekit_source"
BATCH_SIZE = 32


class Source:
    """The position of resumable data, and what identifies its order.

    start: `start(epoch, batch)` makes the next epoch drawn `epoch`, from its batch
        `batch` on, both counted from 0.
    first_batch: a dataset of the first batch, which moves no position.
    steps_per_epoch: batches in a whole epoch, None if that is not known.
    identity: what must be equal for two sources to give the same order.
    flows: whether one iterator can go on from epoch to epoch.
    """

    def __init__(
        self,
        start: Callable[[int, int], None],
        first_batch: tf.data.Dataset,
        steps_per_epoch: int | None,
        identity: Mapping[str, Any],
        *,
        flows: bool,
    ) -> None:
        self.start = start
        self.first_batch = first_batch
        self.steps_per_epoch = steps_per_epoch
        self.identity = dict(identity)
        self.flows = flows

    def attached_to(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The dataset, from which `source_of` gets this source."""
        setattr(dataset, _ATTRIBUTE, self)
        return dataset

    def require_usable(self, *, flowing: bool, replicas: int) -> None:
        """Raise DataError if this data cannot start anywhere in such a `fit`.

        flowing: one pass goes on from epoch to epoch (`fit(steps_per_epoch=)`).
        replicas: of the distribution strategy.
        """
        if flowing and not self.flows:
            raise DataError(
                "fit(steps_per_epoch=) draws epochs across the bounds of the data's own",
                "",
                "give steps_per_epoch to keras_savekit.resumable() instead",
            )
        if replicas > 1 and not self.flows:
            raise DataError(
                f"only arrays can be resumed from under a strategy of {replicas} replicas",
                "",
                "leave data= away, or give keras_savekit.resumable() arrays",
            )


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


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """For data that has nothing to tune: tuning makes `fit` return seconds after its last batch."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def resumable(  # noqa: PLR0913 - one call for every kind of data
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    batch_size: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
    steps_per_epoch: int | None = None,
) -> tf.data.Dataset:
    """Data from which a training resumes in mid-epoch, as a `tf.data.Dataset`.

    x: one of
        - arrays, or a nested structure of arrays, all with the same first
          dimension (samples). Each epoch has an order of its own; starting at any
          batch takes no time.
        - a function of the epoch (counted from 0) that returns a `tf.data.Dataset`
          of batches, always the same one for the same epoch. Batches before the
          position are skipped, which costs what making them costs.
        - a `keras.utils.PyDataset`, read with its own `workers`,
          `use_multiprocessing` and `max_queue_size`, its batches in an order of
          their own in each epoch. Starting at any batch takes no time. Its
          `on_epoch_end` is called once for every epoch before the one that is
          read, also for those that an earlier process trained.
    y, sample_weight: for arrays only. What is None is left out of the batches.
    batch_size: for arrays only: samples in a batch, 32 if not given; the last one
        of an epoch may have fewer.
    shuffle, seed: whether each epoch has an order of its own, which is a function
        of `seed` and the epoch alone. A function of the epoch sees to its own order.
    steps_per_epoch: for a function: batches in an epoch, where its datasets do not
        know (`filter`, `from_generator`) or do not end.

    Give the result to `fit`, with `shuffle=False`, and to the callback:
    `SaveKit(policy, data=data)`. Without the callback the epochs follow each other
    as they are drawn.

    Raises DataError for what cannot be read so, naming the argument.
    """
    from keras_savekit.data import arrays, per_epoch

    if isinstance(x, tf.data.Dataset):
        raise DataError(
            "a dataset does not tell in which order its next epoch will be",
            "",
            "give a function of the epoch: resumable(lambda epoch: dataset.shuffle(n, seed=epoch))",
        )
    arrays_only = {"y": y, "sample_weight": sample_weight, "batch_size": batch_size}
    if isinstance(x, keras.utils.PyDataset) or callable(x):
        given = [name for name, value in arrays_only.items() if value is not None]
        if given:
            raise DataError(f"{', '.join(given)} is for arrays; x brings its own batches")
        if isinstance(x, keras.utils.PyDataset):
            return per_epoch.from_py_dataset(x, shuffle=shuffle, seed=seed)
        return per_epoch.from_function(x, steps_per_epoch)
    if steps_per_epoch is not None:
        raise DataError("steps_per_epoch is for a function of the epoch; arrays know their length")
    batch_size = BATCH_SIZE if batch_size is None else batch_size
    return arrays.from_arrays(x, y, sample_weight, batch_size, seed if shuffle else None)
