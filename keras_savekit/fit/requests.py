"""Watch for external requests to save: signals, files and deadlines."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from keras_savekit.base.moment import ExternalRequests, Tick
from keras_savekit.errors import DirectoryError
from keras_savekit.fit.signals import Signals
from keras_savekit.policy.plan import Due, Policy
from keras_savekit.policy.triggers.base import Requests, Trigger, leaves
from keras_savekit.store import syscalls
from keras_savekit.store.atomic import disk_errors

# Seconds between two checks for files: a remote file system needs milliseconds for one.
CHECK_INTERVAL = 0.5


class RequestMonitor:
    """The signals, files and deadlines that a policy waits for, while one training runs.

    directory: where the files are.
    wall, clock: seconds since 1970, and seconds that only run forward.

    problems: what the user should know, in words; whoever reports them removes them.
    exit_status: with which the process must end, as an acknowledged signal requests.
    """

    def __init__(
        self,
        policy: Policy,
        directory: Path,
        wall: Callable[[], float],
        clock: Callable[[], float],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._directory = directory
        self._wall, self._clock = wall, clock
        self._names: set[str] = set()  # of files
        self._waiting: set[tuple[str, str]] = set()  # plan and signal
        self._graces: list[tuple[tuple[str, ...], float]] = []
        self._deadlines: dict[str, float] = {}
        self.problems: list[str] = []
        self.exit_status: int | None = None
        for plan in policy.plans:
            for trigger in leaves(plan.when):
                self._wait_for(plan.name, trigger, trigger.requests(environ))
        self._acknowledged: dict[tuple[str, str], int] = {}  # how often, by plan and signal
        self._received: Mapping[str, Sequence[float]] = {}
        self._signals = Signals(dict.fromkeys(name for _, name in sorted(self._waiting)), clock)
        self._files: frozenset[str] = frozenset()
        self._checked: float | None = None
        if not self._signals.watch():
            self.problems.append("signals are handled only where fit runs in the main thread")

    def _wait_for(self, plan: str, trigger: Trigger, requests: Requests) -> None:
        self._waiting |= {(plan, name) for name in requests.signals}
        self._names |= set(requests.files)
        if requests.grace is not None:
            self._graces.append((requests.signals, requests.grace))
        for text, deadline in requests.deadlines.items():
            if deadline is None:
                self.problems.append(f"{trigger.describe()}: there is no time in {text}")
            else:
                self._deadlines[text] = deadline

    def quiet(self) -> bool:
        """Return whether nothing was requested, and no check for files is due."""
        if self._signals.any_received or self._files or self._deadlines:
            return False
        return not self._names or not self._is_check_due(self._clock())

    def _is_check_due(self, now: float) -> bool:
        return self._checked is None or now - self._checked >= CHECK_INTERVAL

    def requests(self) -> ExternalRequests:
        """Return the requests that are not acknowledged yet."""
        now = self._clock()
        if self._names and self._is_check_due(now):
            self._checked = now
            found = (name for name in self._names if os.path.lexists(self._directory / name))
            self._files = frozenset(found)
        self._received = self._signals.received()
        open_pairs = {
            pair for pair in self._waiting if self._times(pair) > self._acknowledged.get(pair, 0)
        }
        signals = frozenset(name for _, name in open_pairs)
        served = (pair for pair in self._waiting - open_pairs if pair[1] in signals)
        return ExternalRequests(
            signals,
            frozenset(served) if signals else frozenset(),
            self._files,
            self._wall(),
            self._deadlines,
        )

    def _times(self, pair: tuple[str, str]) -> int:
        return len(self._received.get(pair[1], ()))

    @property
    def grace_deadline(self) -> float | None:
        """When the grace period of a received signal ends, by `clock`; None if none runs."""
        now = self._clock()
        ends = (
            at + grace
            for names, grace in self._graces
            for name in names
            for at in self._received.get(name, ())
        )
        # A grace period that is over did not end the process.
        return min((end for end in ends if end > now), default=None)

    def acknowledge(self, due: Iterable[Due], tick: Tick) -> bool:
        """Note that the saves due at `tick` have begun; return whether training is to stop.

        Removes the files that requested them. One that cannot be removed is reported in
        `problems` and not checked again.
        """
        stop = False
        for save in due:
            seen = tick.for_plan(save.plan.name)
            fired = [trigger for trigger in save.plan.when if trigger.reason(seen) is not None]
            for trigger in leaves(fired):
                response = trigger.response(seen)
                pairs = [(save.plan.name, name) for name in response.signals]
                self._acknowledged.update({pair: self._times(pair) for pair in pairs})
                stop |= response.stop
                if response.exit:
                    self.exit_status = 128 + min(getattr(signal, n) for n in response.signals)
                for name in response.files:
                    self._remove_file(name)
        return stop

    def _remove_file(self, name: str) -> None:
        self._files -= {name}
        try:
            with disk_errors("remove the file that requested a save", self._directory / name):
                syscalls.unlink(self._directory / name, missing_ok=True)
        except DirectoryError as error:
            self._names.discard(name)
            self.problems.append(str(error))

    def release(self) -> None:
        """Restore the signal handlers."""
        self._signals.release()
