"""Trainings in children of a process that has imported TensorFlow and run none of it.

TensorFlow does not survive a fork once its threads run; before that it does, and a
child begins in a moment, where a fresh process would import for seconds.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

_waited: dict[int, int] = {}


def ready_to_fork() -> None:
    """Import what every child needs."""
    import conftest  # noqa: F401 - quiet, and on the CPU
    import training_builders  # noqa: F401

    import keras_savekit.callbacks
    import keras_savekit.fit.session  # noqa: F401


def forked(work: Callable[[], None], error: Path) -> int:
    """A child that does this, quietly, and ends; it writes what it raises to `error`."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the process ends with it
            error.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    _waited.pop(pid, None)  # of a child long gone: numbers come again
    return pid


def wait(pid: int, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
    """How the child ended, None if it has not by then."""
    deadline = time.monotonic() + seconds
    while pid not in _waited:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            _waited[pid] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > deadline or until():
            return None
        else:
            time.sleep(0.002)
    return _waited[pid]
