"""Checkpoints are verified beside the training: their files at once, by loading when there is time.

One thread reads the files; what is to be loaded as well then waits for another,
which asks a process that takes the processor only when nobody else wants it.
However far behind that is, writing never waits for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from keras_savekit.formats.checkpoint import WrittenFiles
from keras_savekit.policy.plan import Policy, SavePlan
from keras_savekit.save.worker import Worker
from keras_savekit.store.manifest import Verification
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.loader.client import LoaderClient
from keras_savekit.verify.loader.probe import PROBE
from keras_savekit.verify.loader.process import Budget

UNVERIFIED = 8  # checkpoints that may wait for each of the two
OVERTAKEN = "not loaded: checkpoints come faster than they can be loaded beside the training"

NO_LONGER = "training has ended and does not wait longer (limits.final_wait)"


@dataclass(frozen=True, slots=True)
class VerificationJob:
    """A checkpoint to be verified.

    files: as written in this session, if they were.
    earlier: whether a session that was killed left it.
    began: when its verification did, by the monotonic clock.
    found: what is known by now.
    """

    name: str
    plan: SavePlan
    files: WrittenFiles | None = None
    earlier: bool = False
    began: float = 0.0
    found: Verification | None = None


class Verifier:
    """Verifies checkpoints of one directory, each down to what its plan says.

    settled: told on one thread, always the same, what came of each.
    failed: told, there too, of those at which the verification or `settled` raised.
    """

    def __init__(
        self,
        directory: RunDirectory,
        policy: Policy,
        clock: Callable[[], float],
        settled: Callable[[VerificationJob, Verification], None],
        failed: Callable[[VerificationJob, Exception], None],
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._settled, self._failed = settled, failed
        limits = policy.limits
        self._patience = limits.final_wait
        budget = Budget(limits.verify_time, limits.verify_memory)
        self.checker = LoaderClient(budget, directory.path / PROBE, directory.key)
        self._computed = 0.0
        self.names: set[str] = set()  # of those that must not go: nobody knows their worth yet
        self._files = Worker("savekit-verifier", self._check, self._give_up)
        self._loads = Worker("savekit-loader", self._load, self._give_up)
        self.workers: tuple[Worker[VerificationJob], ...] = (self._files, self._loads)

    def submit(
        self, job: VerificationJob, capacity: int = UNVERIFIED, *, wait: bool = True
    ) -> None:
        """Have a checkpoint verified.

        wait: until there are less than `capacity` whose files wait to be read: what is
            on the disk and known by nobody to be good stays bounded.
        """
        self.names.add(job.name)
        self._files.submit(job, key="", capacity=capacity, wait=wait)

    def computed(self) -> float:
        """Processor seconds spent so far, by the process that loads too."""
        return self._computed + self.checker.cpu_seconds

    def pending(self) -> int:
        """Checkpoints that wait or are at hand, until their outcome is recorded."""
        return sum(worker.pending() for worker in self.workers)

    def lift(self) -> None:
        """Let nobody wait for room from now on."""
        self._files.lift()

    def join(
        self, patience: float | None = None, left: Callable[[int], None] = lambda count: None
    ) -> bool:
        """Wait until everything is settled, for `patience` seconds at most; whether it is so.

        left: is told how many are left, each time that there are others.
        """
        until = None if patience is None else time.monotonic() + patience
        told = len(self.names)

        def tell(_: int) -> None:
            nonlocal told
            if len(self.names) != told:
                told = len(self.names)
                left(told)

        for worker in (self._files, self._loads, self._files):  # which files what was loaded
            now = None if until is None else max(0.0, until - time.monotonic())
            if not worker.join(now, tell):
                return False
        return True

    def finish(self, left: Callable[[int], None]) -> bool:
        """Wait as long as `limits.final_wait` allows; whether nothing stays unverified for it."""
        if self.join(self._patience, left):
            return True
        waiting = [job for worker in self.workers for job in worker.drop()]
        self.checker.stop(NO_LONGER)
        for job in waiting:
            if job.found is not None:  # it is known, and only to be recorded
                self._settle(job, job.found)
            else:
                self.names.discard(job.name)
                self._directory.events.append("unverified", name=job.name, why=NO_LONGER)
        self.join()
        return False

    def close(self, patience: float | None = None) -> bool:
        """Finish everything, as `join` does, and end both threads and the process."""
        if not self.join(patience):
            return False  # the threads go on alone
        for worker in self.workers:
            worker.close()
        self.checker.close()
        return True

    # On the verifying thread.

    def _check(self, job: VerificationJob) -> None:
        computed = time.thread_time()
        if job.found is None:
            job = self._looked_at(job)
        if job.found is not None:
            self.names.discard(job.name)  # from now on it may go
            self._settled(job, job.found)
        self._computed += time.thread_time() - computed

    def _looked_at(self, job: VerificationJob) -> VerificationJob:
        """With what its files say; without, if it is to be loaded as well."""
        began, depth = time.monotonic(), job.plan.verify
        found = self.checker.verify_files(self._path(job), self._clock(), depth)
        job = replace(job, began=began)
        if not (found.good and found.done) or found.depth == depth:
            return replace(job, found=found)
        overtaken = self._loads.submit(job, key="", capacity=UNVERIFIED, wait=False)
        if overtaken is not None:
            self._settle(overtaken, Verification(found.depth, self._clock(), note=OVERTAKEN))
        return job

    def _give_up(self, job: VerificationJob, error: Exception) -> None:
        self.names.discard(job.name)
        self._failed(job, error)

    # On the one that waits for the process.

    def _load(self, job: VerificationJob) -> None:
        self._settle(job, self.checker.verify_load(self._path(job), self._clock(), job.plan.verify))

    def _settle(self, job: VerificationJob, found: Verification) -> None:
        self._files.submit(replace(job, found=found), key="found", capacity=sys.maxsize, wait=False)

    def _path(self, job: VerificationJob) -> Path:
        return self._directory.checkpoints_path / job.name
