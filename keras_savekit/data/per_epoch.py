"""Data with a new dataset for each epoch, from a function or a `PyDataset`.

Keras calls `iter` on the dataset once for each epoch. That call makes the dataset
of the epoch at the position.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_savekit.data.source import Source, without_autotuning
from keras_savekit.errors import DataError

Make = Callable[[int, int], tf.data.Dataset]

# They would read the first epoch again instead of the next one.
_REFUSED = """
    apply batch cache concatenate enumerate filter flat_map interleave padded_batch rebatch
    repeat shard shuffle skip snapshot take take_while unbatch window zip
"""


@dataclass(slots=True)
class _Position:
    epoch: int = 0
    batch: int = 0


class EpochDataset(tf.data.Dataset):  # type: ignore[misc]
    """A dataset that gives the batches of the next epoch at each `iter`.

    make: `make(epoch, batch)` returns the dataset of an epoch from a batch on.
    """

    def __init__(self, make: Make, position: _Position, steps: int | None) -> None:
        self._make = make
        self._position = position
        self._steps = steps
        self._first = make(0, 0)
        super().__init__(self._first._variant_tensor)

    def __iter__(self) -> Any:
        position = self._position
        epoch, batch = position.epoch, position.batch
        position.epoch, position.batch = epoch + 1, 0
        return iter(self._make(epoch, batch))

    def map(self, *arguments: Any, **options: Any) -> EpochDataset:
        """Map each epoch's dataset; the position is kept."""
        return self._transform(lambda dataset: dataset.map(*arguments, **options))

    def prefetch(self, *arguments: Any, **options: Any) -> EpochDataset:
        """Prefetch each epoch's dataset; the position is kept."""
        return self._transform(lambda dataset: dataset.prefetch(*arguments, **options))

    def with_options(self, *arguments: Any, **options: Any) -> EpochDataset:
        """Set options of each epoch's dataset; the position is kept."""
        return self._transform(lambda dataset: dataset.with_options(*arguments, **options))

    def _transform(self, change: Callable[[tf.data.Dataset], tf.data.Dataset]) -> EpochDataset:
        make = self._make
        return EpochDataset(
            lambda epoch, batch: change(make(epoch, batch)), self._position, self._steps
        )

    def cardinality(self) -> tf.Tensor:
        """Return the number of batches in a whole epoch."""
        known = tf.data.UNKNOWN_CARDINALITY if self._steps is None else self._steps
        return tf.constant(known, tf.int64)

    @property
    def element_spec(self) -> Any:
        """The element specification of the first epoch."""
        return self._first.element_spec

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._first]


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(self: EpochDataset, *arguments: Any, **options: Any) -> Any:
        raise DataError(
            f".{name}() behind resumable() would lose the position in the data",
            "",
            "a distribution strategy calls it; give resumable() arrays under one"
            if name == "rebatch"
            else "put it into the function that makes the epoch; .map() and .prefetch() may follow",
        )

    return refuse


for _name in _REFUSED.split():
    setattr(EpochDataset, _name, _refuse(_name))


def from_function(function: Callable[[int], Any], steps: int | None) -> tf.data.Dataset:
    """Return the datasets of a function as resumable data; see `resumable`."""
    first = function(0)
    if not isinstance(first, tf.data.Dataset):
        raise DataError(
            f"the function must return a tf.data.Dataset, got {type(first).__name__}",
            "",
            "pass arrays and PyDatasets directly, without a function",
        )
    known = int(first.cardinality())
    if steps is None and known == tf.data.INFINITE_CARDINALITY:
        raise DataError(
            "the epoch does not end", "", "give the number of its batches: steps_per_epoch="
        )
    length = steps if steps is not None else known if known >= 0 else None
    if length is not None and (length < 1 or 0 <= known < length):
        raise DataError(f"an epoch has {known} batches, steps_per_epoch says {length}")

    def make(epoch: int, batch: int) -> tf.data.Dataset:
        dataset = function(epoch).skip(batch) if batch else function(epoch)
        return dataset if length is None else dataset.take(length - batch)

    position = _Position()
    dataset = EpochDataset(make, position, length)
    identity = {
        "kind": "function of the epoch",
        "steps_per_epoch": length,
        "batches": str(dataset.element_spec),
    }
    return _attach_source(dataset, position, length, identity)


def from_py_dataset(inner: Any, *, shuffle: bool, seed: int) -> tf.data.Dataset:
    """Return a `PyDataset` as resumable data; see `resumable`."""
    steps = inner.num_batches
    if steps is None or steps < 1:
        raise DataError(f"a PyDataset needs a length of 1 or more, got {steps}")
    signature = _signature(_batch(inner, 0), _batch(inner, steps - 1))
    reader = _Reader(inner, seed if shuffle else None, steps)

    def make(epoch: int, batch: int) -> tf.data.Dataset:
        dataset = tf.data.Dataset.from_generator(
            lambda: reader.read(epoch, batch), output_signature=signature
        )
        return without_autotuning(dataset.prefetch(1))

    position = _Position()
    dataset = EpochDataset(make, position, steps)
    identity = {
        "kind": "PyDataset",
        "seed": seed if shuffle else None,
        "steps_per_epoch": steps,
        "batches": str(signature),
    }
    return _attach_source(dataset, position, steps, identity)


def _attach_source(
    dataset: EpochDataset, position: _Position, steps: int | None, identity: dict[str, Any]
) -> tf.data.Dataset:
    def start(epoch: int, batch: int) -> None:
        position.epoch, position.batch = epoch, batch

    first_batch = tf.data.Dataset.take(dataset._first, 1)
    return Source(start, first_batch, steps, identity, flows=False).attach(dataset)


class _Reader:
    """Reads the batches of an epoch in order, several at a time."""

    def __init__(self, inner: Any, seed: int | None, steps: int) -> None:
        self._inner = inner
        self._seed = seed
        self._steps = steps
        self._ended = 0  # epochs for which `on_epoch_end` was called

    def read(self, epoch: int, first: int) -> Iterator[Any]:
        self._advance_to(epoch)
        numbers = np.arange(self._steps)
        if self._seed is not None:
            numbers = np.random.default_rng([self._seed, epoch]).permutation(self._steps)
        yield from _read_in_order(self._inner, [int(number) for number in numbers[first:]])

    def _advance_to(self, epoch: int) -> None:
        if epoch < self._ended:
            raise DataError(
                f"the PyDataset is in epoch {self._ended + 1} and cannot go back to {epoch + 1}",
                "",
                "make a new one before you train on it again",
            )
        while self._ended < epoch:
            self._inner.on_epoch_end()
            self._ended += 1


def _read_in_order(inner: Any, numbers: list[int]) -> Iterator[Any]:
    workers = max(1, inner.workers)
    with closing(_Pool(inner, workers)) as pool:
        ahead: deque[Future[Any]] = deque()
        for number in numbers:
            ahead.append(pool.submit(number))
            if len(ahead) > max(workers, inner.max_queue_size):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class _Pool:
    """A pool of threads, or of processes if the dataset requests them."""

    def __init__(self, inner: Any, workers: int) -> None:
        self._inner = inner
        self._uses_processes = bool(inner.use_multiprocessing)
        self._executor: Executor = (
            ProcessPoolExecutor(workers, initializer=_remember_dataset, initargs=(inner,))
            if self._uses_processes
            else ThreadPoolExecutor(workers, thread_name_prefix="savekit-data")
        )

    def submit(self, number: int) -> Future[Any]:
        if self._uses_processes:
            return self._executor.submit(_batch_in_process, number)
        return self._executor.submit(_batch, self._inner, number)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


_remembered: list[Any] = []


def _remember_dataset(inner: Any) -> None:
    _remembered[:] = [inner]


def _batch_in_process(number: int) -> Any:
    return _batch(_remembered[0], number)


def _batch(inner: Any, number: int) -> Any:
    """Return one batch in the form that `fit` takes: (x,), (x, y) or (x, y, sample_weight)."""
    batch = inner[number]
    batch = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
    return tf.nest.map_structure(np.asarray, batch)


def _signature(one: Any, other: Any) -> Any:
    """Return the specification of both batches; their number of samples is open."""

    def common(a: Any, b: Any) -> tf.TensorSpec:
        if a.ndim != b.ndim:
            return tf.TensorSpec(None, a.dtype)
        same = [x if x == y else None for x, y in zip(a.shape[1:], b.shape[1:], strict=True)]
        return tf.TensorSpec([None, *same] if a.ndim else [], a.dtype)

    return tf.nest.map_structure(common, one, other)
