"""`resumable`: choose the kind of resumable data by what the user passes."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_savekit.data.arrays import from_arrays
from keras_savekit.data.per_epoch import from_function, from_py_dataset
from keras_savekit.errors import DataError

_BATCH_SIZE = 32


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
    """Return data from which a training resumes in mid-epoch, as a `tf.data.Dataset`.

    x: one of
        - arrays, or a nested structure of arrays, all with the same first
          dimension (samples). Each epoch has its own order. Starting at any
          batch takes no time.
        - a function of the epoch (counted from 0) that returns a `tf.data.Dataset`
          of batches, always the same one for the same epoch. Batches before the
          position are made and skipped.
        - a `keras.utils.PyDataset`, read with its own `workers`,
          `use_multiprocessing` and `max_queue_size`. Each epoch has its own order
          of batches. Starting at any batch takes no time. Its `on_epoch_end` is
          called once for every epoch before the current one, also for epochs that
          an earlier process trained.
    y, sample_weight: for arrays only. A part that is None is not in the batches.
    batch_size: for arrays only: samples in a batch, 32 by default. The last batch
        of an epoch may have fewer.
    shuffle, seed: whether each epoch has its own order, which is a function of
        `seed` and the epoch alone. A function of the epoch makes its own order.
    steps_per_epoch: for a function: batches in an epoch, if its datasets do not
        know it (`filter`, `from_generator`) or do not end.

    Give the result to `fit`, with `shuffle=False`, and to the callback:
    `SaveKit(policy, data=data)`. Without the callback the dataset starts at its
    first epoch, and each iterator draws the next one.

    Raises DataError, which names the argument, for data that is not one of these.
    """
    if isinstance(x, tf.data.Dataset):
        raise DataError(
            "the order of the next epoch of a dataset is unknown",
            "",
            "give a function of the epoch: resumable(lambda epoch: dataset.shuffle(n, seed=epoch))",
        )
    arrays_only = {"y": y, "sample_weight": sample_weight, "batch_size": batch_size}
    if isinstance(x, keras.utils.PyDataset) or callable(x):
        given = [name for name, value in arrays_only.items() if value is not None]
        if given:
            raise DataError(f"{', '.join(given)} is for arrays; x brings its own batches")
        if isinstance(x, keras.utils.PyDataset):
            return from_py_dataset(x, shuffle=shuffle, seed=seed)
        return from_function(x, steps_per_epoch)
    if steps_per_epoch is not None:
        raise DataError("steps_per_epoch is for a function of the epoch; arrays know their length")
    size = _BATCH_SIZE if batch_size is None else batch_size
    return from_arrays(x, y, sample_weight, size, seed if shuffle else None)
