"""The position of resumable data: what a dataset carries so that a training can start at any batch.

`fit` draws batches from a dataset and does not say which epoch it is in. So every
kind of resumable data is a `tf.data.Dataset` with a position (epoch, first batch).
The dataset reads the position when the first batch of an epoch is drawn, and a
resume sets it. The kinds are `arrays` and `per_epoch`; `resumable` chooses one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_savekit.errors import DataError

_ATTRIBUTE = "_savekit_source"


class Source:
    """The position of resumable data, and what identifies its order.

    start: `start(epoch, batch)` sets the position: the next epoch drawn is `epoch`,
        from its batch `batch` on. Both count from 0.
    first_batch: a dataset of the first batch; drawing from it moves no position.
    steps_per_epoch: batches in a whole epoch, None if unknown.
    identity: two sources with equal identities give the same order.
    flows: whether one iterator continues from epoch to epoch.
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

    def attach(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return the dataset, from which `source_of` gets this source."""
        setattr(dataset, _ATTRIBUTE, self)
        return dataset

    def require_usable(self, *, flowing: bool, replicas: int) -> None:
        """Raise DataError if this data cannot start at any batch in such a `fit`.

        flowing: one iterator continues from epoch to epoch (`fit(steps_per_epoch=)`).
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
    """Return the source of a dataset that `resumable` made. Raises DataError for other data."""
    source = getattr(data, _ATTRIBUTE, None)
    if not isinstance(source, Source):
        raise DataError(
            f"data= takes what keras_savekit.resumable() returned, got {type(data).__name__}",
            "",
            "give it the dataset from before any .map() or .prefetch(); fit may have what follows",
        )
    return source


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset with autotuning off, for data that has nothing to tune.

    Autotuning makes `fit` return seconds after its last batch.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
