"""Record signals of the operating system for the next step of training.

Our handler only records; a handler that the program had set is called after it, and
is restored at the end. Python lets only the main thread set handlers.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any


class Signals:
    """Record the signals of some names from `watch` to `release`.

    Without names no handler is set.
    """

    def __init__(self, names: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._names = tuple(names)
        self._clock = clock
        self._received: dict[str, list[float]] = {}
        self._previous: dict[int, Any] = {}

    def watch(self) -> bool:
        """Set the handlers; return False if this thread cannot, and then set none."""
        if threading.current_thread() is not threading.main_thread():
            return not self._names
        for name in self._names:
            number = getattr(signal, name)
            self._previous[number] = signal.signal(number, self._record)
        return True

    @property
    def any_received(self) -> bool:
        """Whether a signal was received."""
        return bool(self._received)

    def received(self) -> Mapping[str, Sequence[float]]:
        """Return the signals received, each with its times by `clock`."""
        return {name: tuple(times) for name, times in self._received.items()}

    def release(self) -> None:
        """Restore the previous handlers, except where someone has set another one since."""
        for number, previous in self._previous.items():
            ours = signal.getsignal(number) == self._record
            if ours:
                # None is a handler that Python did not set and cannot set again.
                signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._previous = {}

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._received.setdefault(signal.Signals(number).name, []).append(self._clock())
        previous = self._previous.get(number)
        # Python's own handler of Ctrl-C would end the training before it could save.
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)
