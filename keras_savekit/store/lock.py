"""One writer to a directory.

The lock is `flock` on `<directory>/.lock`: the kernel gives it up when its
process ends, however that ends, so there is nothing to clean up by hand. Beside
it stands who holds it, for the message to the second one; that file is believed
only while the lock is held. Readers take no lock.

Its limits: `flock` must reach across the file system's machines (NFS since
Linux 2.6.12 does); children made by a bare `fork` share the lock.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from keras_savekit.errors import DirectoryInUseError
from keras_savekit.store.commit import disk_errors
from keras_savekit.store.plain import content

LOCK = ".lock"
HOLDER = ".lock.holder"
MAX_HOLDER = 4096


class DirectoryLock:
    """The right to write into `directory`; also a context manager. Not reentrant.

    Keep a reference while the lock is needed: it goes with its last one.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self._clock = clock
        # One object may be taken by one thread and given back by another.
        self._lock: FileLock | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock is not None

    def acquire(self) -> None:
        """Takes the lock, or refuses at once.

        Raises DirectoryInUseError if anyone holds it, this process included,
        and DirectoryError if the directory cannot be written.
        """
        if self.held:
            raise self._in_use()
        lock = FileLock(self.directory / LOCK, thread_local=False)
        with disk_errors("lock the directory", self.directory):
            # Asked first, because filelock waits for a directory to appear.
            if not self.directory.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if (self.directory / LOCK).is_symlink():  # some versions would empty what it leads to
                raise OSError(errno.ELOOP, f"{LOCK} is a link")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise self._in_use() from None
            except NotImplementedError as error:  # what filelock says where flock is missing
                raise OSError(errno.ENOTSUP, "this file system has no locks") from error
        self._lock = lock
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": self._clock()}
        with suppress(OSError):  # it serves a message, no more
            path = self.directory / HOLDER
            path.unlink(missing_ok=True)  # a link there would have us write elsewhere
            with path.open("x") as file:
                file.write(json.dumps(holder))

    def release(self) -> None:
        """Gives the lock back; nothing happens if it is not held."""
        if self._lock is None:
            return
        with suppress(OSError):
            (self.directory / HOLDER).unlink(missing_ok=True)
        self._lock.release()
        self._lock = None

    def __enter__(self) -> DirectoryLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _in_use(self) -> DirectoryInUseError:
        return DirectoryInUseError(
            f"in use by {self._holder()}",
            str(self.directory),
            "choose another directory or stop that one",
        )

    def _holder(self) -> str:
        try:
            holder = json.loads(content(self.directory / HOLDER, MAX_HOLDER))
            since = datetime.fromtimestamp(holder["started"], timezone.utc)
            pid, host = int(holder["pid"]), str(holder["host"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return "another process"
        who = f"process {pid} on {host}"
        if (pid, host) == (os.getpid(), socket.gethostname()):
            who = f"this process ({pid}) already"
        return f"{who}, since {since:%Y-%m-%d %H:%M:%S} UTC"
