"""Verify checkpoints beside the training: the files at once, loading when there is time.

One thread reads the files. A checkpoint that must be loaded too then waits for a
second thread, which asks a process that takes the processor only when nothing else
needs it. However far that process is behind, writing never waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from keras_savekit.formats.checkpoint import WrittenFiles
from keras_savekit.policy.plan import Policy, SavePlan
from keras_savekit.save.worker import WhenFull, Worker
from keras_savekit.store.manifest import Verification
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.loader.client import LoaderClient
from keras_savekit.verify.loader.probe import PROBE
from keras_savekit.verify.loader.process import Budget

UNVERIFIED = 8  # checkpoints that may wait for each of the two threads
OVERTAKEN = "not loaded: checkpoints come faster than they can be loaded beside the training"

NO_LONGER = "training has ended and does not wait longer (limits.final_wait)"


@dataclass(frozen=True, slots=True)
class VerificationJob:
    """A checkpoint to verify.

    files: as written in this session; None for a checkpoint of an earlier session.
    earlier: whether an earlier session left the checkpoint unverified.
    began: when the verification began, by the monotonic clock.
    result: what is known by now.
    """

    name: str
    plan: SavePlan
    files: WrittenFiles | None = None
    earlier: bool = False
    began: float = 0.0
    result: Verification | None = None


class Verifier:
    """Verify the checkpoints of one directory, each to the depth that its plan says.

    on_verified: called with each result, always on the same thread.
    on_failed: called on that thread too, if the verification or `on_verified` raised.

    undecided: the names of checkpoints without a result; retention must not remove them.
    """

    def __init__(
        self,
        directory: RunDirectory,
        policy: Policy,
        clock: Callable[[], float],
        on_verified: Callable[[VerificationJob, Verification], None],
        on_failed: Callable[[VerificationJob, Exception], None],
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._on_verified, self._on_failed = on_verified, on_failed
        limits = policy.limits
        self._patience = limits.final_wait
        budget = Budget(limits.verify_time, limits.verify_memory)
        self.checker = LoaderClient(budget, directory.path / PROBE, directory.key)
        self._computed = 0.0
        self.undecided: set[str] = set()
        self._files = Worker("savekit-verifier", self._check, self._fail, UNVERIFIED)
        self._loads = Worker("savekit-loader", self._load, self._fail, UNVERIFIED)
        self.workers: tuple[Worker[VerificationJob], ...] = (self._files, self._loads)

    @property
    def pending(self) -> int:
        """The number of checkpoints whose result is not recorded yet."""
        return sum(worker.pending for worker in self.workers)

    def submit(self, job: VerificationJob, when_full: WhenFull = "wait") -> None:
        """Have a checkpoint verified.

        when_full: "wait" returns when fewer than `UNVERIFIED` checkpoints wait for their
            files to be read: the number of unverified checkpoints on the disk is bounded.
        """
        self.undecided.add(job.name)
        self._files.submit(job, when_full=when_full)

    def computed(self) -> float:
        """Return the processor seconds spent so far, those of the loading process included."""
        return self._computed + self.checker.cpu_seconds

    def accept_all(self) -> None:
        """Let no `submit` wait for room from now on."""
        self._files.limit = None

    def join(
        self, patience: float | None = None, on_left: Callable[[int], None] = lambda count: None
    ) -> bool:
        """Wait for all results, for `patience` seconds at most; return whether all are recorded.

        on_left: called with the number of checkpoints without a result, when it has changed.
        """
        deadline = None if patience is None else time.monotonic() + patience
        reported = len(self.undecided)

        def report_left() -> None:
            nonlocal reported
            if len(self.undecided) != reported:
                reported = len(self.undecided)
                on_left(reported)

        for worker in (self._files, self._loads, self._files):  # the first records every result
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not worker.join(left, report_left):
                return False
        return True

    def finish(self, on_left: Callable[[int], None]) -> bool:
        """Wait as long as `limits.final_wait` allows; return whether all is verified."""
        if self.join(self._patience, on_left):
            return True
        cancelled = [job for worker in self.workers for job in worker.cancel()]
        self.checker.stop(NO_LONGER)
        for job in cancelled:
            if job.result is not None:  # only the record is missing
                self._hand_over(job, job.result)
            else:
                self.undecided.discard(job.name)
                self._directory.events.append("unverified", name=job.name, why=NO_LONGER)
        self.join()
        return False

    def close(self, patience: float | None = None) -> bool:
        """Finish everything, as `join` does, and end both threads and the process."""
        if not self.join(patience):
            return False  # the threads continue alone
        for worker in self.workers:
            worker.close()
        self.checker.close()
        return True

    # On the verifying thread.

    def _check(self, job: VerificationJob) -> None:
        computed = time.thread_time()
        if job.result is None:
            job = self._check_files(job)
        if job.result is not None:
            self.undecided.discard(job.name)  # from now on retention may remove it
            self._on_verified(job, job.result)
        self._computed += time.thread_time() - computed

    def _check_files(self, job: VerificationJob) -> VerificationJob:
        """Return the job with the result for its files; without, if it must be loaded too."""
        began, depth = time.monotonic(), job.plan.verify
        result = self.checker.verify_files(self._path(job), self._clock(), depth)
        job = replace(job, began=began)
        if not (result.good and result.done) or result.depth == depth:
            return replace(job, result=result)
        overtaken = self._loads.submit(job, when_full="replace")
        if overtaken is not None:
            self._hand_over(overtaken, Verification(result.depth, self._clock(), note=OVERTAKEN))
        return job

    def _fail(self, job: VerificationJob, error: Exception) -> None:
        self.undecided.discard(job.name)
        self._on_failed(job, error)

    # On the thread that waits for the loading process.

    def _load(self, job: VerificationJob) -> None:
        result = self.checker.verify_load(self._path(job), self._clock(), job.plan.verify)
        self._hand_over(job, result)

    def _hand_over(self, job: VerificationJob, result: Verification) -> None:
        """Have a result recorded by the verifying thread."""
        self._files.submit(replace(job, result=result), key="result", when_full="exceed")

    def _path(self, job: VerificationJob) -> Path:
        return self._directory.checkpoints_path / job.name
