"""What a session is given by whoever starts it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from keras_savekit.data.source import Source
from keras_savekit.policy.plan import Policy
from keras_savekit.store.run import RunDirectory
from keras_savekit.store.run_writer import RunWriter


def steady(wall: Callable[[], float], clock: Callable[[], float]) -> Callable[[], float]:
    """Seconds since 1970 as `wall` has them now, going on as `clock` does: it never jumps."""
    began = wall() - clock()
    return lambda: began + clock()


class Kit(Protocol):
    """A savekit callback, as its session and those of others in the same `fit` see it."""

    policy: Policy
    directory: RunDirectory

    @property
    def writer(self) -> RunWriter:
        """The right to write into the directory; acquired first if it is not held."""

    @property
    def session(self) -> Any:
        """The session that it runs, None outside `fit`."""

    def get_state(self) -> dict[str, Any]:
        """What its triggers remember."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What a session is given.

    callback: the one that Keras knows.
    kits: every savekit callback of this `fit`, in order, `callback` among them.
    source: the data's position, where it has one.
    tell: shows a text to the user.
    """

    callback: Kit
    kits: tuple[Kit, ...]
    run: str
    source: Source | None
    tell: Callable[[str], None]
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic

    @property
    def policy(self) -> Policy:
        """Of this session."""
        return self.callback.policy

    @property
    def directory(self) -> RunDirectory:
        """Of this session."""
        return self.callback.directory

    @property
    def writer(self) -> RunWriter:
        """Of this session."""
        return self.callback.writer
