"""A named thread that does jobs one after another while training goes on.

Jobs are plain values; what became of each is told through a callback on that
thread. A job that fails does not stop the next. Nothing here knows what a
checkpoint is.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

J = TypeVar("J")


class Worker(Generic[J]):
    """Does `do(job)` for each job, in order, on a thread of its own.

    capacity: how many jobs of one key may wait while another is being done.
    do: must not let an exception out that `failed` should not hear of.
    failed: told of a job whose `do` raised, on the worker's thread.

    The thread starts with the first job and is a daemon: a process that exits
    without `close` loses what was waiting, as if it had been killed.
    """

    def __init__(
        self, name: str, do: Callable[[J], None], failed: Callable[[J, Exception], None]
    ) -> None:
        self._name = name
        self._do = do
        self._failed = failed
        self._waiting: OrderedDict[int, tuple[str, J]] = OrderedDict()
        self._number = 0
        self._busy = False
        self._closing = self._lifted = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, job: J, key: str, capacity: int, *, wait: bool) -> J | None:
        """Put a job in the queue; return the one it replaced, if any.

        When `capacity` jobs of this key are waiting, the oldest of them is
        replaced, or, with `wait`, this call returns only when there is room.
        """
        with self._changed:
            if self._closing:
                raise RuntimeError(f"{self._name} is closed")
            if wait:
                self._changed.wait_for(lambda: self._lifted or len(self._of(key)) < capacity)
            ours = self._of(key)
            full = len(ours) >= capacity and not (wait and self._lifted)
            replaced = self._waiting.pop(ours[0])[1] if full else None
            self._number += 1
            self._waiting[self._number] = (key, job)
            self._start()
            self._changed.notify_all()
            return replaced

    def lift(self) -> None:
        """Let nobody wait for room from now on: what comes is taken all the same."""
        with self._changed:
            self._lifted = True
            self._changed.notify_all()

    def pending(self) -> int:
        """Jobs waiting or being done."""
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return len(self._waiting) + self._busy

    def join(
        self, patience: float | None = None, left: Callable[[int], None] = lambda count: None
    ) -> bool:
        """Wait until every job is done, for `patience` seconds at most; return whether it is so.

        left: is told how many are waiting or being done each time that there are others.
        """
        until = None if patience is None else time.monotonic() + patience
        count = self.pending()
        while count:
            with self._changed:
                now = None if until is None else until - time.monotonic()
                if not self._changed.wait_for(lambda: self._count() != count, now):  # noqa: B023
                    return False
                count = self._count()
            left(count)
        return True

    def drop(self) -> list[J]:
        """Take back the jobs that are waiting; the one being done goes on."""
        with self._changed:
            dropped = [job for _, job in self._waiting.values()]
            self._waiting.clear()
            self._changed.notify_all()
        return dropped

    def close(self, patience: float | None = None) -> bool:
        """Finish every job, then end the thread. A closed worker takes no more.

        patience: seconds to wait for it; the thread goes on alone after that.
        Returns whether everything is done.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            return True
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _of(self, key: str) -> list[int]:
        return [number for number, (other, _) in self._waiting.items() if other == key]

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                _, (_, job) = self._waiting.popitem(last=False)
                self._busy = True
                self._changed.notify_all()
            try:
                self._do(job)
            except Exception as error:  # noqa: BLE001 - the one seam where a job's failure is a value
                self._failed(job, error)
            finally:
                del job  # a snapshot keeps memory alive
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
