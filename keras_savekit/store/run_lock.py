"""The lock of a run's directory: one writer at a time.

The lock is `flock` on `<directory>/.lock`. The kernel releases it when the process
ends, however it ends, so it needs no cleaning up. A note beside it names the holder,
for the message to a second writer. Readers take no lock.

Where the file system has no `flock`, the note is the lock. A note of a dead process is
replaced; a note of a living process, or of one on another machine, refuses the lock.
`limitation` says what that cannot do.

The limits: `flock` must work across the machines of the file system (NFS does since
Linux 2.6.12). Children made by a bare `fork` share the lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from keras_savekit.errors import DirectoryInUseError
from keras_savekit.store import syscalls
from keras_savekit.store.atomic import disk_errors
from keras_savekit.store.process_id import ProcessId, this_process
from keras_savekit.store.regular_file import content

LOCK = ".lock"
HOLDER = ".lock.holder"
MAX_HOLDER = 4096


class RunLock:
    """The right to write into `directory`; also a context manager. Not reentrant.

    Keep a reference while the lock is needed: it is released with the last reference.

    limitation: what the lock cannot do on this file system; empty if nothing, or not held.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self.limitation = ""
        self._clock = clock
        self._close: weakref.finalize[..., RunLock] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._close is not None

    def acquire(self) -> None:
        """Acquire the lock without waiting.

        Raises DirectoryInUseError if any process holds it, this one included,
        and DirectoryError if the directory cannot be written.
        """
        if self.held:
            raise self._in_use()
        with disk_errors("lock the directory", self.directory):
            # O_NOFOLLOW: a link would lead to a file elsewhere.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            descriptor = syscalls.open(self.directory / LOCK, flags)
            try:
                self.limitation = self._take(descriptor)
            except BaseException:
                syscalls.close(descriptor)
                raise
        self._close = weakref.finalize(self, syscalls.close, descriptor)

    def release(self) -> None:
        """Release the lock. Does nothing if it is not held."""
        if self._close is None:
            return
        with suppress(OSError):
            syscalls.unlink(self.directory / HOLDER)
        close, self._close, self.limitation = self._close, None, ""
        with suppress(OSError):
            close()

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _take(self, descriptor: int) -> str:
        try:
            syscalls.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use() from None
        except OSError as error:
            if error.errno not in syscalls.UNSUPPORTED:
                raise
            self._take_by_note()
            return "locks: a second training in the directory is noticed only on this machine"
        with suppress(OSError):  # the note is only for a message
            syscalls.unlink(self.directory / HOLDER, missing_ok=True)
            self._write_note()
        return ""

    def _take_by_note(self) -> None:
        if (self.directory / HOLDER).exists():
            note = self._note()
            if note is None or ProcessId.of(note).alive() is not False:
                raise self._in_use()
            syscalls.unlink(self.directory / HOLDER, missing_ok=True)
        try:
            self._write_note()
        except FileExistsError:
            raise self._in_use() from None

    def _write_note(self) -> None:
        note = asdict(this_process()) | {"started": self._clock()}
        syscalls.write_new(self.directory / HOLDER, json.dumps(note).encode())

    def _note(self) -> dict[str, Any] | None:
        try:
            note: dict[str, Any] = json.loads(content(self.directory / HOLDER, MAX_HOLDER))
            ProcessId.of(note), datetime.fromtimestamp(note["started"], timezone.utc)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            AttributeError,
            RecursionError,
        ):
            return None
        return note

    def _in_use(self) -> DirectoryInUseError:
        who, remedy = "another process", "choose another directory or stop that one"
        note = self._note()
        if note is not None:
            holder = ProcessId.of(note)
            since = datetime.fromtimestamp(note["started"], timezone.utc)
            who = f"process {holder.pid} on {holder.host}"
            alive = holder.alive()
            if holder == this_process():
                who = f"this process ({holder.pid}) already"
            elif alive is False:  # a forked child shares the lock and still runs
                who = f"a child that {who} left running"
            who += f", since {since:%Y-%m-%d %H:%M:%S} UTC"
            if alive is None:
                remedy += f"; if it no longer runs, delete {HOLDER} there"
        return DirectoryInUseError(f"in use by {who}", str(self.directory), remedy)
