"""Signals of the operating system, noted for the next step of training.

A handler only notes; a handler that the program had set before is called after
it, and all are put back at the end. Python lets only the main thread do this.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any


class Signals:
    """Notes the signals of some names from `watch` to `release`.

    Without names nothing is touched.
    """

    def __init__(self, names: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._names = tuple(names)
        self._clock = clock
        self._came: dict[str, list[float]] = {}
        self._before: dict[int, Any] = {}

    def watch(self) -> bool:
        """Begin; False if this thread cannot, and nothing is then noted."""
        if threading.current_thread() is not threading.main_thread():
            return not self._names
        for name in self._names:
            number = getattr(signal, name)
            self._before[number] = signal.signal(number, self._note)
        return True

    @property
    def any_came(self) -> bool:
        """Whether one came."""
        return bool(self._came)

    def came(self) -> Mapping[str, Sequence[float]]:
        """The signals that came, and when each time, by `clock`."""
        return {name: tuple(times) for name, times in self._came.items()}

    def release(self) -> None:
        """Put the handlers back, unless somebody set others meanwhile; once more does nothing."""
        for number, before in self._before.items():
            ours = signal.getsignal(number) == self._note
            if ours:
                # None stands for a handler that Python did not set and cannot set again.
                signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.setdefault(signal.Signals(number).name, []).append(self._clock())
        before = self._before.get(number)
        # Python's own answer to Ctrl-C would end the training before it could save.
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)
