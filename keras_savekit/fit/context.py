"""What the starter of a session gives to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from keras_savekit.data.source import Source
from keras_savekit.fit.reporting import Reporter
from keras_savekit.policy.plan import Policy
from keras_savekit.store.run import RunDirectory
from keras_savekit.store.run_writer import RunWriter

if TYPE_CHECKING:  # they import this module
    from keras_savekit.fit.begin import ResumePlan
    from keras_savekit.fit.steering import Fit


def steady(wall: Callable[[], float], clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock of seconds since 1970 that starts at `wall` and never jumps, as `clock`."""
    began = wall() - clock()
    return lambda: began + clock()


class RunningSession(Protocol):
    """A session, as the sessions of other kits in the same `fit` see it."""

    @property
    def resume_plan(self) -> ResumePlan | None:
        """Where its training resumed; None if it started from scratch."""

    def within(self, fit: Fit) -> bool:
        """Return whether it is a session of `fit` that is not over."""


class Kit(Protocol):
    """A savekit callback, as its session and those of others in the same `fit` see it."""

    policy: Policy
    directory: RunDirectory

    @property
    def writer(self) -> RunWriter:
        """The right to change the directory, held while `fit` runs."""

    @property
    def session(self) -> RunningSession | None:
        """The session that it runs; None outside of `fit`."""

    def get_state(self) -> dict[str, Any]:
        """Return what its triggers remember."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What a session needs from its callback.

    kit: the callback that Keras knows.
    kits: every savekit callback of this `fit`, in order, `kit` among them.
    run: the run's id.
    source: the position of the data, where it has one.
    report: reports to the user.
    wall, clock: seconds since 1970, and seconds that only run forward.
    """

    kit: Kit
    kits: tuple[Kit, ...]
    run: str
    source: Source | None
    report: Reporter
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic

    @property
    def policy(self) -> Policy:
        """The policy of this session."""
        return self.kit.policy

    @property
    def directory(self) -> RunDirectory:
        """The directory of this session."""
        return self.kit.directory

    @property
    def writer(self) -> RunWriter:
        """The right to change that directory."""
        return self.kit.writer
