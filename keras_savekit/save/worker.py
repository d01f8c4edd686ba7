"""A named thread that does jobs one after another while training continues.

Jobs are plain values. A job that fails does not stop the next one. Nothing here
knows what a checkpoint is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

J = TypeVar("J")

# What `submit` does when the queue is full: wait for room, replace the oldest job, or exceed
# the limit.
WhenFull = Literal["wait", "replace", "exceed"]


class Worker(Generic[J]):
    """Do `do(job)` for each job, in order, on a thread of its own.

    do: may raise; the exception goes to `on_failed` with the job, on the worker's thread.
    limit: how many jobs of one key may wait while another job is done; None for any number.

    The thread starts with the first job and is a daemon: a process that exits
    without `close` loses the jobs that wait, as if it had been killed.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[J], None],
        on_failed: Callable[[J, Exception], None],
        limit: int | None = None,
    ) -> None:
        self._name = name
        self._do = do
        self._on_failed = on_failed
        self._limit = limit
        self._queue: list[tuple[str, J]] = []
        self._busy = False
        self._closing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def limit(self) -> int | None:
        """The number of jobs of one key that may wait. A new limit wakes every `submit`."""
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    @property
    def pending(self) -> int:
        """The number of jobs that wait or are being done."""
        with self._changed:
            return self._count()

    def submit(self, job: J, key: str = "", when_full: WhenFull = "wait") -> J | None:
        """Put a job into the queue; return the job that it replaced, if any.

        key: a limit counts the jobs of one key.
        when_full: "wait" returns only when there is room.
        """
        with self._changed:
            if self._closing:
                raise RuntimeError(f"{self._name} is closed")
            if when_full == "wait":
                self._changed.wait_for(lambda: not self._is_full(key))
            replaced = None
            if when_full == "replace" and self._is_full(key):
                replaced = self._queue.pop(self._positions(key)[0])[1]
            self._queue.append((key, job))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return replaced

    def join(
        self, patience: float | None = None, on_progress: Callable[[], None] = lambda: None
    ) -> bool:
        """Wait for all jobs, for `patience` seconds at most; return whether all are done.

        on_progress: called whenever the number of jobs has changed.
        """
        deadline = None if patience is None else time.monotonic() + patience
        count = self.pending
        while count:
            with self._changed:
                left = None if deadline is None else deadline - time.monotonic()
                if not self._changed.wait_for(lambda: self._count() != count, left):  # noqa: B023
                    return False
                count = self._count()
            on_progress()
        return True

    def cancel(self) -> list[J]:
        """Remove and return the jobs that wait; the job that is being done continues."""
        with self._changed:
            cancelled = [job for _, job in self._queue]
            self._queue.clear()
            self._changed.notify_all()
        return cancelled

    def close(self, patience: float | None = None) -> bool:
        """Finish all jobs, then end the thread. A closed worker takes no more jobs.

        patience: seconds to wait; after that the thread continues alone.
        Return whether all jobs are done.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            return True
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _count(self) -> int:
        return len(self._queue) + self._busy

    def _is_full(self, key: str) -> bool:
        return self._limit is not None and len(self._positions(key)) >= self._limit

    def _positions(self, key: str) -> list[int]:
        return [position for position, (other, _) in enumerate(self._queue) if other == key]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                _, job = self._queue.pop(0)
                self._busy = True
                self._changed.notify_all()
            try:
                self._do(job)
            except Exception as error:  # noqa: BLE001 - the one seam where a job's failure is a value
                self._on_failed(job, error)
            finally:
                del job  # a snapshot keeps memory alive
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
