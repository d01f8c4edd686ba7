"""The wall clock jumps, backwards and forwards, by seconds and by decades.

The same training is run with a clock that goes well and with one that jumps before
any of its saves; nothing that is decided may differ. About 200 ms a try, 3 s for one
with a real `fit`.

`newer_than` and what is written as `created` go by the clock as it stood when the
session began, and the seconds since. Between two sessions a jump forwards is not to
be told from time that passed; a jump backwards makes checkpoints younger, so they stay.
`before_deadline` goes by the wall clock as it is: that is what a deadline is.
"""

from __future__ import annotations

import functools
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from keras_savekit import callbacks
from keras_savekit.base.moment import Event, ExternalRequests, Moment, Tick
from keras_savekit.fit.context import SessionContext, steady
from keras_savekit.policy.plan import Policy, SavePlan, decide
from keras_savekit.store.run import LINKS, RunDirectory
from torture import worlds
from torture.score import Score

FULL = 1000
FITS = 1 / 200
EVERY = 1200.0  # seconds between two saves, by a clock that goes well
JUMPS = (1.0, 60.0, 3600.0, 86400.0, 3e7, 6e8)
KEEPS = ("last 2", "best 2 loss min", "newer_than 1h", "every 3 steps", "size 100kB")
WHEN: tuple[Any, ...] = (
    "every 2 steps",
    "every 30 minutes",
    "every 2 epochs",
    "improved loss min",
    "train_end",
    {"all": ["every 1 epochs", "every 1 hours"]},
    {"all": ["every 1 epochs", {"not": "every 45 minutes"}]},
)


class Clock:
    """A training's clocks: one that only runs forward, and the wall's, which may jump."""

    def __init__(self, jumps: Iterator[float]) -> None:
        self._jumps = jumps
        self.now, self.off = 0.0, 1.8e9

    def going_on(self, steps: Iterable[int]) -> Iterator[int]:
        for step in steps:
            self.now += EVERY
            self.off += next(self._jumps)
            yield step

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.off


def _none() -> Iterator[float]:
    while True:
        yield 0.0


def _jumps(rng: random.Random) -> Iterator[float]:
    while True:
        yield rng.choice((0.0, -1.0, 1.0)) * rng.choice(JUMPS) * rng.random()


def run(seed: int, count: int, scratch: Path) -> list[Score]:
    """Each try draws a policy, a training and the jumps."""
    fits = round(count * FITS)
    retention, triggers = [], []
    with worlds.quiet(), worlds.unsynced():
        for number in range(count - fits):
            drawn = f"{seed}-{number}"
            retention += [f"{drawn}: {each}" for each in _kept(drawn, scratch / "run")]
            triggers += [f"{drawn}: {each}" for each in _fired(drawn)]
    scores = [
        Score("clock jumps change no order, link or retention", count - fits, (*retention,)),
        Score("clock jumps change no trigger", count - fits, (*triggers,)),
    ]
    if fits:
        scores.append(_fits(seed, fits, scratch))
    return scores


def _kept(drawn: str, path: Path) -> Iterator[str]:
    rng = random.Random(drawn)
    keep = rng.sample(KEEPS, rng.choice((1, 1, 2)))
    plan = SavePlan(name="p", when="every 1 steps", keep=keep, verify="bytes")
    saves = rng.randrange(4, 8)
    # The age of what an earlier session saved is by the wall, whoever set it.
    sessions = 1 if "newer_than 1h" in keep else 2

    def left(jumps: Iterator[float]) -> tuple[Any, ...]:
        clock = Clock(jumps)
        resumed = []
        for session in range(sessions):
            wall = steady(clock.wall, clock.monotonic)
            steps = range(1 + session * saves, 1 + (session + 1) * saves)
            told = worlds.live(path, clock.going_on(steps), plans=(plan,), wall=wall)
            assert not told.words, told
            resumed.append(told.resumed)
        directory = RunDirectory(path)
        names = [each.name for each in directory.checkpoints()]
        found = names, [directory.linked(which) for which in LINKS], resumed
        shutil.rmtree(path)
        return found

    undisturbed, disturbed = left(_none()), left(_jumps(rng))
    if undisturbed != disturbed:
        yield f"keep {keep}: {disturbed} instead of {undisturbed}"


def _fired(drawn: str) -> Iterator[str]:
    rng = random.Random(drawn)
    when = rng.sample(WHEN, rng.randrange(1, 4))
    policy = Policy(plans=[SavePlan(name="p", when=when)])
    losses = [rng.random() for _ in range(20)]

    def fired(jumps: Iterator[float]) -> list[tuple[str, ...]]:
        before, memory, found = Moment(), {}, []
        clock = Clock(jumps)
        for step in clock.going_on(range(1, 21)):
            epoch, batch = divmod(step, 4)
            now = Moment(epoch, batch, step, clock.now, {"loss": losses[step - 1]})
            event: Event = "epoch_end" if batch == 0 else "step"
            tick = Tick(before, now, event, memory, ExternalRequests(wall=clock.wall()))
            decision = decide(policy, tick)
            memory, before = decision.memory, now
            found.append(tuple(reason for due in decision.due for reason in due.reasons))
        return found

    undisturbed, disturbed = fired(_none()), fired(_jumps(rng))
    if undisturbed != disturbed:
        yield f"when {when}: {disturbed} instead of {undisturbed}"


def _fits(seed: int, count: int, scratch: Path) -> Score:
    """Real trainings whose wall clock jumps whenever it is asked."""
    import training_builders as built

    import keras_savekit as sk

    def names(path: Path, wall: Callable[[], float]) -> list[str]:
        often, hourly = "every 2 steps", ["every 5 steps", "every 1 hours"]
        all_of_them = {"when_busy": "wait"}  # on a busy machine one may be replaced by the next
        policy = built.policy(
            built.plan(often, "often", keep="newer_than 1h", **all_of_them),
            built.plan(hourly, "hourly", keep="last 2", **all_of_them),
            directory=str(path),
        )
        data = built.data()
        with mock.patch.object(
            callbacks, "SessionContext", functools.partial(SessionContext, wall=wall)
        ):
            built.fit(built.model(), sk.SaveKit(policy, data=data), on=data)
        return [each.name for each in RunDirectory(path).checkpoints()]

    undisturbed = names(scratch / "fit", lambda: 1.8e9)
    failures = []
    for number in range(count):
        jumps = _jumps(random.Random(f"{seed}-{number}"))
        found = names(scratch / f"fit{number}", lambda jumps=jumps: 1.8e9 + next(jumps))
        if found != undisturbed:
            failures.append(f"fit {number}: {found} instead of {undisturbed}")
    return Score(
        "a `fit` under a jumping clock saves and keeps the same checkpoints", count, (*failures,)
    )
