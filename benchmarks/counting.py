"""What a save does: calls of the disk and their bytes, copies in memory, seconds by the wall.

Counts do not flicker as times do. Everything here stands around functions of the
package while it works; nothing in it knows that it is counted.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras

import keras_savekit as sk
from keras_savekit.formats.directio.writer import FileWriter
from keras_savekit.save.host_copy import HostBuffer
from keras_savekit.store import syscalls


@dataclass(slots=True)
class Sum:
    """Of all calls of one name: how many, seconds and bytes."""

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0


class Counts:
    """Sums by name; of calls of the disk by thread and name.

    copied: bytes copied in memory on their way to the file.
    """

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.disk: dict[tuple[str, str], Sum] = defaultdict(Sum)
        self.timed: dict[str, Sum] = defaultdict(Sum)
        self.copied = 0

    def of_disk(self, name: str, thread: str = "") -> Sum:
        """Of one call of the disk, by all threads or by those of a name."""
        found = [each for (who, what), each in self.disk.items() if what == name and thread in who]
        sums = zip(*((each.calls, each.seconds, each.bytes) for each in found), strict=True)
        return Sum(*map(sum, sums))

    def call(self, name: str, call: Callable[..., Any], *given: Any) -> Any:
        """Stands for a call of the disk."""
        began = time.perf_counter()
        result = call(*given)
        size = result if isinstance(result, int) else len(result) if name == "pread" else 0
        size = size if name in ("write", "pwrite", "preadv", "pread") else 0
        key = threading.current_thread().name, name
        self._add(self.disk[key], time.perf_counter() - began, size)
        return result

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function, its time taken."""

        def run(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self._add(self.timed[name], time.perf_counter() - began, 0)

        return run

    def _add(self, to: Sum, seconds: float, size: int) -> None:
        with self._one_at_a_time:
            to.calls += 1
            to.seconds += seconds
            to.bytes += size


@contextmanager
def counted(functions: dict[str, tuple[Any, str]] | None = None) -> Iterator[Counts]:
    """In here everything is counted.

    functions: by the name they are to have, those whose time is taken: where they
        are, and as what.
    """
    counts = Counts()
    stage, flush = HostBuffer.copy_out, FileWriter._flush

    def staging(self: HostBuffer, snapshot: Any) -> None:
        before = list(snapshot.tensors)
        stage(self, snapshot)
        pairs = zip(before, snapshot.tensors, strict=True)
        counts.copied += sum(new.nbytes for old, new in pairs if new is not old)

    def flushing(self: FileWriter) -> None:
        counts.copied += self._buffered
        flush(self)

    with ExitStack() as stack:
        _replaced(stack, HostBuffer, "copy_out", staging)
        _replaced(stack, FileWriter, "_flush", flushing)
        for name, (owner, attribute) in (functions or {}).items():
            _replaced(stack, owner, attribute, counts.around(name, getattr(owner, attribute)))
        stack.enter_context(syscalls.watched(counts.call))
        yield counts


def _replaced(stack: ExitStack, owner: Any, attribute: str, new: Any) -> None:
    stack.callback(setattr, owner, attribute, getattr(owner, attribute))
    setattr(owner, attribute, new)


class Settle(keras.callbacks.Callback):  # type: ignore[misc]
    """Waits before each batch until nothing is left to do for `kit`; calls `then(step)`."""

    def __init__(self, kit: sk.SaveKit, then: Callable[[int], None]) -> None:
        super().__init__()
        self._kit, self._then, self._step = kit, then, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Wait for both threads."""
        pipeline = self._kit.session._pipeline
        pipeline._writer.join()
        pipeline._verifier.join()
        self._then(self._step)
        self._step += 1

    def get_state(self) -> dict[str, Any]:
        """Nothing: it watches one session."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing."""
