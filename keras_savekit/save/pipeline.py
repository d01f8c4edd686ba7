"""What happens to a snapshot beside the training: write, publish, verify, file the outcome.

One thread writes and publishes, a second verifies, sets aside and has links and
retention (`keeping`) brought up to date. Failures are kept until the training
asks for them; nothing good is touched by one.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from keras_savekit.base.tensors import Snapshot, Variable
from keras_savekit.errors import CheckpointError, DirectoryError, SaveError, SavekitError
from keras_savekit.formats import checkpoint as checkpoint_files
from keras_savekit.formats.checkpoint import Purpose, Templates, WrittenFiles
from keras_savekit.formats.registry import FORMATS
from keras_savekit.policy.plan import Due, Policy, SavePlan
from keras_savekit.save import preflight
from keras_savekit.save.host_copy import HostBuffer
from keras_savekit.save.retention import RetentionApplier
from keras_savekit.save.verifier import NO_LONGER, OVERTAKEN, VerificationJob, Verifier
from keras_savekit.save.worker import Worker
from keras_savekit.store.atomic import discard, disk_errors
from keras_savekit.store.manifest import DEPTHS, Verification, supersedes
from keras_savekit.store.naming import CheckpointName
from keras_savekit.store.run import Checkpoint, RunDirectory

T = TypeVar("T")

_ADDRESS = re.compile(r"0x[0-9a-f]+")  # which differ from one process to the next

ALREADY_SAVED = "this step is already saved"


@dataclass(frozen=True, slots=True)
class _Save:
    name: str
    snapshot: Snapshot
    due: Due
    asked: float
    unless_as: str | None = None  # the checkpoint that makes it needless, if its weights are these


class Pipeline:
    """The background of one session. Called on the thread that trains.

    run: the run's id, for the manifests.
    clock: seconds since 1970, by which `newer_than` goes too: one that does not jump.
    """

    def __init__(
        self, directory: RunDirectory, policy: Policy, run: str, clock: Callable[[], float]
    ) -> None:
        self._directory = directory
        self._policy = policy
        self._run = run
        self._clock = clock
        self._names: set[str] = set()
        self._doubtful: set[str] = set()  # of earlier sessions, not known to be good
        self._problems: SimpleQueue[SavekitError] = SimpleQueue()
        self._notices: SimpleQueue[str] = SimpleQueue()
        self._notes: SimpleQueue[tuple[str, dict[str, Any]]] = SimpleQueue()
        self._noticed: set[str] = set()
        self._not_portable: set[tuple[str, str]] = set()  # plans and problems that were reported
        self._retries: SimpleQueue[Due] = SimpleQueue()
        self._retried: set[str] = set()  # plans that have had no good checkpoint since
        self._shrunk: dict[str, float] = {}  # what compression left of each plan's last save
        self._lasted: dict[str, float] = {}  # seconds of each plan's last save
        self._computed = 0.0  # processor seconds, by the writer
        self._forms = Templates()
        self._bases: dict[str, WrittenFiles | None] = {}  # of each plan, what is known to be good
        self._memory = HostBuffer(low=policy.memory == "low")
        self._writer = Worker("savekit-writer", self._write, self._save_failed)
        self._checks = Verifier(directory, policy, clock, self._settled, self._check_failed)
        self._keeper = RetentionApplier(
            directory, policy, clock, self._checks.names, self._names.discard
        )
        self._take_up(self._keeper.checkpoints())

    def _take_up(self, earlier: Sequence[Checkpoint]) -> None:
        """Have those verified that earlier sessions left unverified."""
        good = {found.name for found in earlier if found.status == "verified"}
        self._names.update(self._directory.names())
        self._doubtful.update(self._names - good)
        plans = {plan.name: plan for plan in self._policy.plans}
        for found in earlier:
            plan = plans.get(found.manifest.plan)
            if plan is not None and _owes_verification(found, plan):
                job = VerificationJob(found.name, plan, earlier=True)
                self._checks.submit(job, capacity=len(earlier), wait=False)

    def expect(self, variables: Sequence[Variable]) -> None:
        """Get ready, beside the training, for saves of these and what a first step adds."""
        self._memory.reserve(variables)
        if any(DEPTHS.index(plan.verify) >= DEPTHS.index("load") for plan in self._policy.plans):
            self._checks.checker.start()

    def save(
        self,
        snapshot: Snapshot,
        due: Due,
        grace_deadline: float | None = None,
        *,
        may_differ: bool = False,
    ) -> None:
        """Have a snapshot saved for one plan; returns at once unless the plan says `wait`.

        A step that the plan has saved is not saved again, unless an earlier session
        saved it and nobody knows whether it is good.

        killed_at: by the monotonic clock. A save that would not be done by then is
            not begun, and this is told.
        may_differ: whether weights may have changed since the step was saved; it is
            then saved again, under the next name, if they have.
        """
        plan = due.plan
        first = CheckpointName(snapshot.moment.step, plan.name)
        saved, name = None, str(first)
        if name in self._doubtful:  # a resume skipped it: it may be damaged, and stays
            name = str(replace(first, number=2))
        elif name in self._names and may_differ:
            saved, name = name, str(replace(first, number=2))
        if name in self._names:
            self._skip(name, due, ALREADY_SAVED)
            return
        left = math.inf if grace_deadline is None else grace_deadline - time.monotonic()
        needed = self._lasted.get(plan.name, 0.0) * (1 + self._writer.pending())
        if needed > left:
            why = (
                f"of the grace period {left:.1f} s are left, and it would take {needed:.1f} s;"
                " the newest checkpoint stands"
            )
            self._skip(name, due, why)
            self._notices.put(f"{plan.name} is not saved: {why}")
            return
        self._names.add(name)
        replaced = self._writer.submit(
            _Save(name, snapshot, due, time.monotonic(), saved),
            key=plan.name,
            capacity=self._policy.limits.queue,
            wait=plan.when_busy == "wait",
        )
        if replaced is not None:
            self._names.discard(replaced.name)
            self._directory.events.append(
                "replaced",
                name=replaced.name,
                reasons=replaced.due.reasons,
                why=f"the writer was busy and {name} is newer",
            )

    def note(self, kind: str, **fields: Any) -> None:
        """Have an event logged soon: the disk is not for the thread that trains."""
        self._notes.put((kind, fields))

    def quiet(self) -> bool:
        """Whether there is nothing to tell and nothing to save again."""
        told = self._notices.empty() and self._keeper.notices.empty()
        return told and self._problems.empty() and self._retries.empty()

    def retries(self) -> list[Due]:
        """What failed since this was last asked and is to be saved again.

        A plan whose second try fails too is not tried again until it has a good checkpoint.
        """
        return _drained(self._retries)

    def problems(self) -> list[SavekitError]:
        """What went wrong since this was last asked."""
        return _drained(self._problems)

    def notices(self) -> list[str]:
        """What the user should know since this was last asked, though no save failed."""
        unlogged = self._directory.events.failure()
        found = [f"{unlogged}\n  checkpoints are not affected"] if unlogged else []
        for text in _drained(self._keeper.notices):
            self._notice(text)
        return found + _drained(self._notices)

    def computed(self) -> float:
        """Processor seconds that the background, the verifying process too, has spent so far."""
        return self._computed + self._checks.computed()

    def pending(self) -> int:
        """Checkpoints not yet written or not yet verified."""
        return self._writer.pending() + self._checks.pending()

    def join(self, left: Callable[[int], None] = lambda count: None) -> None:
        """Wait until everything is written, and verified as far as `limits.final_wait` allows.

        left: is told how many checkpoints are still to be verified.
        """
        if self._policy.limits.final_wait is not None:
            self._checks.lift()  # what is left to write is bounded, and waits for no verification
        self._writer.join()
        if not self._checks.finish(left):
            self._notices.put(
                f"checkpoints stay unverified: {NO_LONGER};"
                f" `savekit verify {self._directory.path}` looks at them"
            )

    def close(
        self, until: float | None = None, left: Callable[[int], None] = lambda count: None
    ) -> bool:
        """Finish everything that was asked for, as `join` does.

        until: by the monotonic clock, when to stop waiting. What is then under way
            goes on as long as the process lives: it is published whole or not at
            all, and what is not verified then is verified at the next resume.
        Returns whether everything is done.
        """
        self._log_notes()
        if until is None:
            self.join(left)
        # The writer hands over to the checks, which are closed when nothing more can come.
        for part in (self._writer, self._checks):
            if not part.close(None if until is None else max(0.0, until - time.monotonic())):
                return False
        return True

    # On the writing thread.

    def _write(self, job: _Save) -> None:
        directory, plan = self._directory, job.due.plan
        began, computed = time.monotonic(), time.thread_time()
        self._memory.stage(job.snapshot)
        refused = self._refused(job)
        if refused:
            self._names.discard(job.name)
            self._skip(job.name, job.due, refused)
            return
        purpose = Purpose(
            self._run,
            plan.name,
            job.due.reasons,
            self._clock(),
            FORMATS[plan.format],
            plan.compression,
        )
        if directory.remake_checkpoints():
            self._log_remade()
        scratch = directory.new_scratch(job.name)
        try:
            with disk_errors("write the checkpoint", scratch):
                base = self._bases.get(plan.name)
                manifest = checkpoint_files.write(
                    scratch, job.snapshot, purpose, self._forms, base, directory.key
                )
            published = directory.publish(scratch, job.name)
        except BaseException:
            discard(scratch)
            raise
        if plan.compression:  # a little more than the last, so that it is rather too much
            predicted = preflight.predicted_bytes(job.snapshot)
            self._shrunk[plan.name] = min(1.0, 1.1 * manifest.bytes / predicted)
        seconds = self._lasted[plan.name] = time.monotonic() - began
        self._log_notes()
        directory.events.append(
            "saved",
            name=job.name,
            reasons=job.due.reasons,
            bytes=manifest.bytes,
            shared=sum(each.shared for each in self._forms.written.values()),
            waited=round(began - job.asked, 3),
            seconds=round(seconds, 3),
        )
        self._computed += time.thread_time() - computed
        # Waits when too many are unverified: what is on the disk stays bounded.
        files = checkpoint_files.relocate(self._forms.written, published) if plan.reuse else None
        self._checks.submit(VerificationJob(job.name, plan, files))

    def _log_remade(self) -> None:
        path = self._directory.checkpoints_path
        self._directory.events.append("remade", place=path)
        self._notice(f"the directory of the checkpoints was deleted: {path} is made again")

    def _log_notes(self) -> None:
        for kind, fields in _drained(self._notes):
            self._directory.events.append(kind, **fields)

    def _refused(self, job: _Save) -> str:
        """Why a save is left out, if it is; makes room for it if it has too little."""
        plan = job.due.plan
        if job.unless_as is not None and self._holds(job.unless_as, job.snapshot):
            return ALREADY_SAVED
        found = preflight.not_finite(job.snapshot) if plan.not_finite == "skip" else ""
        if found:
            self._notice(f"{plan.name} is not saved while the model is not finite: {found}")
            return found
        size = preflight.predicted_bytes(job.snapshot) * self._shrunk.get(plan.name, 1.0)
        save = preflight.coming(job.snapshot, job.due, math.ceil(size), self._clock())
        refused = self._keeper.make_room(save)
        if refused:
            self._notice(f"{plan.name} is not saved: {refused}")
        return refused

    def _holds(self, name: str, snapshot: Snapshot) -> bool:
        try:
            manifest = self._directory.open(name).manifest
        except CheckpointError:
            return False  # it is gone
        return preflight.same_weights(manifest, snapshot)

    def _skip(self, name: str, due: Due, why: str) -> None:
        self._directory.events.append("skipped", name=name, reasons=due.reasons, why=why)

    def _notice(self, text: str) -> None:
        kind = text.partition(":")[0]
        if kind not in self._noticed:  # once: the event log has them all
            self._noticed.add(kind)
            self._notices.put(text)

    def _save_failed(self, job: _Save, error: Exception) -> None:
        self._names.discard(job.name)
        self._report("failed", job.name, f"{job.name} could not be saved", error)
        self._retry(job.due.plan, f"{job.name} could not be saved")

    # On the verifying thread.

    def _settled(self, job: VerificationJob, verification: Verification) -> None:
        directory = self._directory
        # Nothing is shared with what is bad, or the next one would be so too.
        # Nor with what could not be read.
        known = verification.good and (verification.done or verification.depth != "bytes")
        self._bases[job.plan.name] = job.files if known else None
        if known:
            self._doubtful.discard(job.name)
        if verification.good and not verification.done:
            self._leave_unverified(job, verification)
        elif job.earlier and verification.only_unsigned:
            self._pass_over(job, verification)
        elif verification.good:
            self._retried.discard(job.plan.name)
            directory.record(job.name, verification)
            directory.events.append(
                "verified",
                name=job.name,
                depth=verification.depth,
                note=verification.note,
                not_portable=[str(finding) for finding in verification.not_portable],
                seconds=round(time.monotonic() - job.began, 3),
            )
            if verification.not_portable:
                self._report_not_portable(job, verification)
            if verification.note == OVERTAKEN:
                self._notice(f"{job.plan.name} is saved, and not always loaded: {OVERTAKEN}")
        else:
            self._quarantine(job.name, verification)
            self._retry(job.plan, f"{job.name} failed its verification")
        self._keeper.settle()

    def _report_not_portable(self, job: VerificationJob, verification: Verification) -> None:
        """Once for each plan and problem: the model stays the same from save to save."""
        problem = _ADDRESS.sub("", verification.not_portable[0].what)
        if (job.plan.name, problem) not in self._not_portable:
            self._not_portable.add((job.plan.name, problem))
            self._notices.put(f"{job.name} is {verification.not_portable_shown()}")

    def _leave_unverified(self, job: VerificationJob, verification: Verification) -> None:
        with suppress(CheckpointError, DirectoryError):  # without a record it is unverified too
            if supersedes(verification, self._directory.open(job.name).verification):
                self._directory.record(job.name, verification)
        self._directory.events.append("unverified", name=job.name, why=verification.note)
        self._notice(f"{job.plan.name} is saved and stays unverified: {verification.note}")

    def _pass_over(self, job: VerificationJob, verification: Verification) -> None:
        """Leave what an earlier session saved as it is: there may have been no key then."""
        why = str(verification.findings[0])
        self._directory.events.append("unverified", name=job.name, why=why)
        self._notice(f"earlier checkpoints stay, and are not used with a key: {job.name} {why}")

    def _quarantine(self, name: str, verification: Verification) -> None:
        findings = [str(finding) for finding in verification.findings]
        place = self._directory.quarantine(name, verification)
        self._names.discard(name)
        self._directory.events.append("quarantined", name=name, findings=findings)
        self._problems.put(
            SaveError(
                f"{name} failed its verification: {findings[0]}",
                str(place),
                "it was set aside and will not be used; the checkpoints before it still stand",
            )
        )

    def _retry(self, plan: SavePlan, why: str) -> None:
        """Have a plan saved again, once, where the policy says so."""
        if self._policy.on_failure == "resave" and plan.name not in self._retried:
            self._retried.add(plan.name)
            self._retries.put(Due(plan, (why,)))

    def _check_failed(self, job: VerificationJob, error: Exception) -> None:
        self._report("unverified", job.name, f"{job.name} could not be verified or filed", error)

    def _report(self, kind: str, name: str, what: str, error: Exception) -> None:
        stands = "every checkpoint listed before still stands; `savekit list` shows them"
        if isinstance(error, SavekitError):
            why, where = error.what, error.where
            remedy = "\n  ".join(filter(None, (error.remedy, stands)))
        else:
            why, where = f"{type(error).__name__}: {error}", str(self._directory.path)
            remedy = stands
        problem = SaveError(f"{what}: {why}", where, remedy)
        problem.__cause__ = error
        self._problems.put(problem)
        self._directory.events.append(kind, name=name, why=why)


def _drained(queue: SimpleQueue[T]) -> list[T]:
    """All that is in it. Two threads may take things out."""
    found = []
    with suppress(Empty):
        while not queue.empty():
            found.append(queue.get_nowait())
    return found


def _owes_verification(checkpoint: Checkpoint, plan: SavePlan) -> bool:
    reached = checkpoint.verification
    if reached is None or not reached.done:
        return True
    shallower = DEPTHS.index(reached.depth) < DEPTHS.index(plan.verify)
    return reached.good and shallower and not reached.note
