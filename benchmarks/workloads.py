"""What is trained while something saves, and what is noted of it.

The same for this package, its peers and the floors: one `fit` of one epoch on one
batch that comes again and again, in a process of its own.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

HOOKS = ("on_train_batch_begin", "on_train_batch_end")
PIECE = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a benchmark is: as the issue has it, or just so that all of it runs."""

    small: bool

    def __call__(self, full: Any, small: Any) -> Any:
        """One of two values."""
        return small if self.small else full


def standard(
    scale: Scale, width: int | None = None, layers: int = 8, frozen: int = 0
) -> keras.Model:
    """Eight layers of 2048 and one of ten, with Adam: 403 MB in 56 variables.

    frozen: how many of the layers, from the first, are not trained.
    """
    width = width or scale(2048, 32)
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(width, activation="relu") for _ in range(layers)]
    model = keras.Sequential([keras.Input((width,)), *hidden, keras.layers.Dense(10)])
    for layer in model.layers[:frozen]:
        layer.trainable = False
    model.compile("adam", "mse", jit_compile=False)
    return model


def resnet(scale: Scale) -> keras.Model:
    """ResNet152 with Adam: 700 MB in 2,178 variables."""
    keras.utils.set_random_seed(0)
    build = scale(keras.applications.ResNet152, keras.applications.MobileNetV3Small)
    model = build(weights=None, input_shape=(32, 32, 3), classes=10)
    model.compile("adam", "categorical_crossentropy", jit_compile=False)
    return model


def batches(model: keras.Model, size: int) -> tf.data.Dataset:
    """One batch, for ever, without what tunes itself."""
    values = np.random.default_rng(0)
    x = values.normal(size=(size, *model.inputs[0].shape[1:])).astype("float32")
    y = values.random((size, *model.outputs[0].shape[1:])).astype("float32")
    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensors((x, y)).repeat().with_options(options)


def bytes_of(model: keras.Model) -> int:
    """Of the state: every variable of model and optimizer."""
    held = [*model.variables, *model.optimizer.variables]
    return sum(int(np.prod(each.shape)) * np.dtype(each.dtype).itemsize for each in held)


class OfOneSession(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback that has nothing to remember for a session that goes on."""

    def get_state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing."""


class RequestMonitor(OfOneSession):
    """When each batch began and ended. The first callback of the list."""

    def __init__(self) -> None:
        super().__init__()
        self.begins: list[float] = []
        self.ends: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Note the time, and with the first batch what has been used so far."""
        if not self.begins:
            self.started = settle()
            forget_peak()
            self.computed = computed()
        self.begins.append(time.perf_counter())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    def on_train_end(self, logs: Any = None) -> None:
        """Note how large the processes that this one has started have been."""
        self.child = max((peak(each) for each in children()), default=0)


def timed(callback: Any) -> list[float]:
    """Have the seconds that each batch spends in a callback's hooks noted in a list."""
    spent: list[float] = []

    def around(hook: Callable[..., None], first: bool) -> Callable[..., None]:
        def run(batch: int, logs: Any = None) -> None:
            began = time.perf_counter()
            hook(batch, logs)
            lasted = time.perf_counter() - began
            if first:
                spent.append(lasted)
            else:
                spent[-1] += lasted

        return run

    for name in HOOKS:
        setattr(callback, name, around(getattr(callback, name), name == HOOKS[0]))
    return spent


def train(
    model: keras.Model,
    callback: Any,
    *,
    every: int,
    saves: int,
    batch_size: int,
    after: Callable[[], None] | None = None,
    before: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train until so many saves were due and the batches up to the next one are done.

    callback: saves after `every` batches, or None.
    after: waits for what the callback has not finished when `fit` returns.
    before: other callbacks.

    Returns seconds from the first to the last batch, of every step, and inside the
    hooks at each save; processor seconds, and the growth of resident memory. What
    processes take that the callback starts before is told apart, and waited for.
    """
    data = batches(model, batch_size)
    model.fit(
        data, steps_per_epoch=2, verbose=0, shuffle=False
    )  # what is made in the first step is made
    watch = RequestMonitor()
    spent = timed(callback) if callback is not None else []
    callbacks = [watch, *before, *filter(None, [callback])]
    steps = every * (saves + 1) - 1
    model.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False, callbacks=callbacks)
    if after is not None:
        after()
    begins = watch.begins
    return {
        "seconds": watch.ends[-1] - begins[0],
        "steps": [later - earlier for earlier, later in pairwise(begins)],
        "stalls": spent[every - 1 :: every],
        "hooks": spent,
        "computed": computed() - watch.computed,
        "started": watch.started,
        "peak": peak(),
        "child": watch.child,
        "state": bytes_of(model),
        "variables": len(model.variables) + len(model.optimizer.variables),
        "saves": saves,
        "every": every,
    }


# Of the process.


def computed() -> float:
    """Processor seconds so far, of children too."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) + _computed_by_children()


def settle(pause: float = 0.5) -> float:
    """Wait until no child computes any more; processor seconds that they have taken so far."""
    before, now = -1.0, _computed_by_children()
    while now > before:
        time.sleep(pause)
        before, now = now, _computed_by_children()
    return now


def _computed_by_children() -> float:
    """Of those that live."""
    return sum(sum(_stat(each)[11:13]) for each in children()) / os.sysconf("SC_CLK_TCK")


def forget_peak() -> None:
    """Let the peak of resident memory begin anew (`man proc_pid_clear_refs`)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak(process: int | str = "self") -> int:
    """The most bytes that were resident; 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def children() -> list[int]:
    """Process ids of this process's children."""
    processes = (int(each.name) for each in Path("/proc").glob("[0-9]*"))
    return [each for each in processes if _stat(each)[1] == os.getpid()]


def _stat(process: int) -> list[int]:
    """Fields of `man proc_pid_stat` from the third, the state, here 0; zeros if it is gone."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [0] * 20
    return [0, *(int(each) for each in after_name[1:20])]


def age() -> float:
    """Seconds since this process was started, to a hundredth."""
    begun = _stat(os.getpid())[19] / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - begun


def forget(paths: Iterable[Path]) -> None:
    """Drop files from the page cache, once they are on the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


# Of numbers.


def median(values: Iterable[float]) -> float:
    """The median; not a number where there are none."""
    values = list(values)
    return statistics.median(values) if values else float("nan")


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    return float(np.quantile(list(values), share, method="inverted_cdf"))
