"""What training is told from outside, and what saving costs: measured here, judged in `policy`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from keras_savekit.base.moment import ExternalRequests, Tick
from keras_savekit.errors import DirectoryError
from keras_savekit.fit.signals import Signals
from keras_savekit.policy.overhead import OverheadState, next_state
from keras_savekit.policy.plan import Due, Policy
from keras_savekit.policy.triggers.base import Requests, Trigger, leaves
from keras_savekit.store import syscalls
from keras_savekit.store.atomic import disk_errors

# Seconds between two looks for files: asking a file system far away costs milliseconds.
LOOK = 0.5


class RequestMonitor:
    """Signals, files and deadlines that a policy waits for, while one training runs.

    directory: where files are looked for.
    wall, clock: seconds since 1970, and seconds that only run forward.

    exit_status: with which a signal that was served asks the process to end.
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
        self._served: dict[tuple[str, str], int] = {}  # how often, by plan and signal
        self._came: Mapping[str, Sequence[float]] = {}
        self._signals = Signals(dict.fromkeys(name for _, name in sorted(self._waiting)), clock)
        self._files: frozenset[str] = frozenset()
        self._looked: float | None = None
        if not self._signals.watch():
            self.problems.append("signals are heeded only where fit runs in the main thread")

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
        """Whether nothing came, and it is not time to look for files."""
        if self._signals.any_came or self._files or self._deadlines:
            return False
        return not self._names or not self._time_to_look(self._clock())

    def _time_to_look(self, now: float) -> bool:
        return self._looked is None or now - self._looked >= LOOK

    def look(self) -> ExternalRequests:
        """What came and is not served yet."""
        now = self._clock()
        if self._names and self._time_to_look(now):
            self._looked = now
            there = (name for name in self._names if os.path.lexists(self._directory / name))
            self._files = frozenset(there)
        self._came = self._signals.came()
        waiting = {each for each in self._waiting if self._times(each) > self._served.get(each, 0)}
        signals = frozenset(name for _, name in waiting)
        served = (each for each in self._waiting - waiting if each[1] in signals)
        return ExternalRequests(
            signals,
            frozenset(served) if signals else frozenset(),
            self._files,
            self._wall(),
            self._deadlines,
        )

    def _times(self, pair: tuple[str, str]) -> int:
        return len(self._came.get(pair[1], ()))

    @property
    def grace_deadline(self) -> float | None:
        """By `clock`, when the grace period of a signal that came ends; None if none runs."""
        now = self._clock()
        ends = (
            at + grace
            for names, grace in self._graces
            for name in names
            for at in self._came.get(name, ())
        )
        return min((end for end in ends if end > now), default=None)  # who survived was not killed

    def serve(self, due: Iterable[Due], tick: Tick) -> bool:
        """The saves that are due at `tick` are under way; returns whether training is to stop.

        A file that asked and cannot be removed is among `problems`, and not looked for again.
        """
        stop = False
        for one in due:
            seen = tick.for_plan(one.plan.name)
            fired = [each for each in one.plan.when if each.reason(seen) is not None]
            for trigger in leaves(fired):
                response = trigger.response(seen)
                pairs = [(one.plan.name, name) for name in response.signals]
                self._served.update({pair: self._times(pair) for pair in pairs})
                stop |= response.stop
                if response.exit:
                    self.exit_status = 128 + min(getattr(signal, n) for n in response.signals)
                for name in response.files:
                    self._take_away(name)
        return stop

    def _take_away(self, name: str) -> None:
        self._files -= {name}
        try:
            with disk_errors("remove the file that asked for a save", self._directory / name):
                syscalls.unlink(self._directory / name, missing_ok=True)
        except DirectoryError as error:
            self._names.discard(name)
            self.problems.append(str(error))

    def release(self) -> None:
        """Put everything back."""
        self._signals.release()


class OverheadMeter:
    """What saving costs the training, and how far intervals are stretched for it.

    What other threads compute counts by its part of the machine's cores.
    """

    def __init__(self, budget: float | None, clock: Callable[[], float]) -> None:
        self._budget = budget
        self._clock = clock
        self._began = clock()
        self._stalled = 0.0
        self._cores = len(os.sched_getaffinity(0))
        self._pace = OverheadState()

    @property
    def limited(self) -> bool:
        """Whether there is a budget, and so something to judge."""
        return self._budget is not None

    @property
    def stretch(self) -> int:
        """How many times longer intervals in steps and time are now."""
        return self._pace.stretch

    def stalled(self, seconds: float) -> None:
        """Training waited so long for a save."""
        self._stalled += seconds

    def judge(self, computed: float) -> bool:
        """Decide again; returns whether the stretch is another now.

        computed: processor seconds that other threads have spent on saving.
        """
        if self._budget is None:
            return False
        before, trained = self._pace, self._clock() - self._began
        spent = self._stalled + computed / self._cores
        self._pace = next_state(before, self._budget, trained, spent)
        return self._pace.stretch != before.stretch
