"""A save beside the training: copy, check, write, publish, verify, apply the outcome.

One thread writes and publishes, a second verifies, quarantines, and applies
retention. What they have to report waits in `outcomes`. A failed save changes
no other checkpoint.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from keras_savekit.base.tensors import Snapshot, Variable
from keras_savekit.errors import CheckpointError, DirectoryError, SaveError
from keras_savekit.formats import checkpoint as checkpoint_files
from keras_savekit.formats.checkpoint import Purpose, Templates, WrittenFiles
from keras_savekit.formats.registry import FORMATS
from keras_savekit.policy.plan import Due, Policy, SavePlan
from keras_savekit.save import preflight
from keras_savekit.save.host_copy import HostBuffer
from keras_savekit.save.outcomes import Outcomes, failure_of, reason_of
from keras_savekit.save.retention import RetentionApplier
from keras_savekit.save.saved_names import SavedNames
from keras_savekit.save.verifier import NO_LONGER, OVERTAKEN, VerificationJob, Verifier
from keras_savekit.save.worker import Worker
from keras_savekit.store.atomic import discard, disk_errors
from keras_savekit.store.checkpoint import Checkpoint
from keras_savekit.store.manifest import DEPTHS, Manifest, Verification, supersedes
from keras_savekit.store.run_writer import RunWriter

_ADDRESS = re.compile(r"0x[0-9a-f]+")  # differs from one process to the next
ALREADY_SAVED = "this step is already saved"


@dataclass(frozen=True, slots=True)
class _Save:
    """One checkpoint to write.

    requested: when, by the monotonic clock.
    rival: the checkpoint that makes this one needless, if its weights are the same.
    """

    name: str
    snapshot: Snapshot
    due: Due
    requested: float
    rival: str | None = None


class Pipeline:
    """The background of one session. Its public methods are for the thread that trains.

    run: the run's id, for the manifests.
    clock: seconds since 1970 that do not jump; the rule `newer_than` uses it too.

    outcomes: what the background reports.
    """

    def __init__(
        self, directory: RunWriter, policy: Policy, run: str, clock: Callable[[], float]
    ) -> None:
        self._directory = directory
        self._policy = policy
        self._run = run
        self._clock = clock
        self.outcomes = Outcomes(directory.events)
        self._size_factor: dict[str, float] = {}  # compressed by uncompressed size, by plan
        self._duration: dict[str, float] = {}  # seconds of each plan's last save
        self._computed = 0.0  # processor seconds of the writer
        self._not_portable: set[tuple[str, str]] = set()  # plans and problems that were reported
        self._templates = Templates()
        self._bases: dict[str, WrittenFiles | None] = {}  # known good files of each plan, to share
        self._buffer = HostBuffer(low=policy.memory == "low")
        self._writer = Worker("savekit-writer", self._write, self._save_failed, policy.limits.queue)
        self._verifier = Verifier(
            directory, policy, clock, self._apply_result, self._verification_failed
        )
        self._retention = RetentionApplier(
            directory, policy, clock, self._verifier.undecided, self._removed, self.outcomes
        )
        earlier = self._retention.checkpoints()
        verified = {found.name for found in earlier if found.status == "verified"}
        self._names = SavedNames(directory.names(), verified)
        self._verify_earlier(earlier)

    def _verify_earlier(self, earlier: Sequence[Checkpoint]) -> None:
        """Have the checkpoints verified that earlier sessions left unverified."""
        plans = {plan.name: plan for plan in self._policy.plans}
        for checkpoint in earlier:
            plan = plans.get(checkpoint.manifest.plan)
            if plan is not None and _needs_verification(checkpoint, plan):
                job = VerificationJob(checkpoint.name, plan, earlier=True)
                self._verifier.submit(job, "exceed")

    def preallocate(self, variables: Sequence[Variable]) -> None:
        """Preallocate the buffer for `variables` and start the verifier; return at once."""
        self._buffer.preallocate(variables)
        if any(DEPTHS.index(plan.verify) >= DEPTHS.index("load") for plan in self._policy.plans):
            self._verifier.checker.start()

    # A save, from its request to its outcome.

    def save(
        self,
        snapshot: Snapshot,
        due: Due,
        grace_deadline: float | None = None,
        *,
        may_differ: bool = False,
    ) -> None:
        """Have a snapshot saved for one plan; return at once unless the plan says `wait`.

        A step that the plan has saved is not saved again, unless an earlier session
        saved it and its checkpoint is not known to be good.

        grace_deadline: by the monotonic clock. A save that would end later is not
            begun, and this is reported.
        may_differ: whether weights may have changed since the step was saved. If they
            have, the step is saved again under the next name.
        """
        plan = due.plan
        name, rival = self._names.choose(snapshot.moment.step, plan.name, may_differ=may_differ)
        if name in self._names:
            self._log_skipped(name, due, ALREADY_SAVED)
            return
        too_late = self._too_late(plan, grace_deadline)
        if too_late:
            self._log_skipped(name, due, too_late)
            self.outcomes.add_notice(f"{plan.name} is not saved: {too_late}")
            return
        self._names.add(name)
        save = _Save(name, snapshot, due, time.monotonic(), rival)
        replaced = self._writer.submit(save, plan.name, plan.when_busy)
        if replaced is not None:
            self._names.discard(replaced.name)
            self._directory.events.append(
                "replaced",
                name=replaced.name,
                reasons=replaced.due.reasons,
                why=f"the writer was busy and {name} is newer",
            )

    def _too_late(self, plan: SavePlan, grace_deadline: float | None) -> str:
        """Return why a save would not end before the deadline; empty if it would."""
        if grace_deadline is None:
            return ""
        left = grace_deadline - time.monotonic()
        needed = self._duration.get(plan.name, 0.0) * (1 + self._writer.pending)
        if needed <= left:
            return ""
        return (
            f"of the grace period {left:.1f} s are left, and it would take {needed:.1f} s;"
            " the newest checkpoint is unaffected"
        )

    def _write(self, save: _Save) -> None:
        """Copy, check, write and publish one save, then hand it to the verifier."""
        plan = save.due.plan
        began, computed = time.monotonic(), time.thread_time()
        self._buffer.copy_out(save.snapshot)
        refused = self._refuse(save)
        if refused:
            self._names.discard(save.name)
            self._log_skipped(save.name, save.due, refused)
            return
        manifest, published = self._write_and_publish(save)
        if plan.compression:  # a little more than the last one: too much is the safe side
            predicted = preflight.predicted_bytes(save.snapshot)
            self._size_factor[plan.name] = min(1.0, 1.1 * manifest.bytes / predicted)
        seconds = self._duration[plan.name] = time.monotonic() - began
        self.outcomes.write_events()
        self._directory.events.append(
            "saved",
            name=save.name,
            reasons=save.due.reasons,
            bytes=manifest.bytes,
            shared=sum(file.shared for file in self._templates.written.values()),
            waited=round(began - save.requested, 3),
            seconds=round(seconds, 3),
        )
        self._computed += time.thread_time() - computed
        files = (
            checkpoint_files.relocate(self._templates.written, published) if plan.reuse else None
        )
        # Waits while too many are unverified: their number on the disk is bounded.
        self._verifier.submit(VerificationJob(save.name, plan, files))

    def _refuse(self, save: _Save) -> str:
        """Return why a save is left out, empty if it is not; make room for it if necessary."""
        plan, snapshot = save.due.plan, save.snapshot
        if save.rival is not None and self._has_same_weights(save.rival, snapshot):
            return ALREADY_SAVED
        refused = preflight.find_not_finite(snapshot) if plan.not_finite == "skip" else ""
        if refused:
            text = f"{plan.name} is not saved while the model is not finite: {refused}"
            self.outcomes.add_notice_once(text)
            return refused
        size = preflight.predicted_bytes(snapshot) * self._size_factor.get(plan.name, 1.0)
        record = preflight.record_of(snapshot, save.due, math.ceil(size), self._clock())
        refused = self._retention.make_room(record)
        if refused:
            self.outcomes.add_notice_once(f"{plan.name} is not saved: {refused}")
        return refused

    def _has_same_weights(self, name: str, snapshot: Snapshot) -> bool:
        try:
            manifest = self._directory.open(name).manifest
        except CheckpointError:
            return False  # it is gone
        return preflight.has_same_weights(manifest, snapshot)

    def _write_and_publish(self, save: _Save) -> tuple[Manifest, Path]:
        directory, plan = self._directory, save.due.plan
        purpose = Purpose(
            self._run,
            plan.name,
            save.due.reasons,
            self._clock(),
            FORMATS[plan.format],
            plan.compression,
        )
        if directory.remake_checkpoints():
            path = directory.checkpoints_path
            directory.events.append("remade", place=path)
            self.outcomes.add_notice_once(
                f"the directory of the checkpoints was deleted: {path} is made again"
            )
        scratch = directory.new_scratch(save.name)
        try:
            with disk_errors("write the checkpoint", scratch):
                base = self._bases.get(plan.name)
                manifest = checkpoint_files.write(
                    scratch, save.snapshot, purpose, self._templates, base, directory.key
                )
            return manifest, directory.publish(scratch, save.name)
        except BaseException:
            discard(scratch)
            raise

    def _save_failed(self, save: _Save, error: Exception) -> None:
        self._names.discard(save.name)
        what = f"{save.name} could not be saved"
        self._report_failure("failed", save.name, what, error)
        self._retry(save.due.plan, what)

    # Outcomes, on the verifying thread.

    def _apply_result(self, job: VerificationJob, result: Verification) -> None:
        """Record, quarantine or leave a checkpoint, as its verification says."""
        # The next checkpoint shares no file with a bad one, nor with one that could not be read.
        known_good = result.good and (result.done or result.depth != "bytes")
        self._bases[job.plan.name] = job.files if known_good else None
        if known_good:
            self._names.confirm(job.name)
        if result.good and not result.done:
            self._leave_unverified(job, result)
        elif job.earlier and result.only_unsigned:
            self._leave_unsigned(job, result)
        elif result.good:
            self._record_verified(job, result)
        else:
            self._quarantine(job.name, result)
            self._retry(job.plan, f"{job.name} failed its verification")
        self._retention.apply()

    def _report_not_portable(self, job: VerificationJob, result: Verification) -> None:
        """Report it once for each plan and problem: the model is the same at each save."""
        problem = _ADDRESS.sub("", result.not_portable[0].what)
        if (job.plan.name, problem) not in self._not_portable:
            self._not_portable.add((job.plan.name, problem))
            self.outcomes.add_notice(f"{job.name} is {result.not_portable_shown()}")

    def _record_verified(self, job: VerificationJob, result: Verification) -> None:
        self.outcomes.allow_retry(job.plan)
        self._directory.record(job.name, result)
        self._directory.events.append(
            "verified",
            name=job.name,
            depth=result.depth,
            note=result.note,
            not_portable=[str(finding) for finding in result.not_portable],
            seconds=round(time.monotonic() - job.began, 3),
        )
        if result.not_portable:
            self._report_not_portable(job, result)
        if result.note == OVERTAKEN:
            self.outcomes.add_notice_once(
                f"{job.plan.name} is saved, and not always loaded: {OVERTAKEN}"
            )

    def _leave_unverified(self, job: VerificationJob, result: Verification) -> None:
        with suppress(CheckpointError, DirectoryError):  # without a record it is unverified too
            if supersedes(result, self._directory.open(job.name).verification):
                self._directory.record(job.name, result)
        self._directory.events.append("unverified", name=job.name, why=result.note)
        self.outcomes.add_notice_once(
            f"{job.plan.name} is saved and stays unverified: {result.note}"
        )

    def _leave_unsigned(self, job: VerificationJob, result: Verification) -> None:
        """Leave a checkpoint of an earlier session: there may have been no key then."""
        why = str(result.findings[0])
        self._directory.events.append("unverified", name=job.name, why=why)
        self.outcomes.add_notice_once(
            f"earlier checkpoints stay, and are not used with a key: {job.name} {why}"
        )

    def _quarantine(self, name: str, result: Verification) -> None:
        findings = [str(finding) for finding in result.findings]
        place = self._directory.quarantine(name, result)
        self._names.discard(name)
        self._directory.events.append("quarantined", name=name, findings=findings)
        self.outcomes.add_problem(
            SaveError(
                f"{name} failed its verification: {findings[0]}",
                str(place),
                "it was moved to quarantine and is not used; earlier checkpoints are unaffected",
            )
        )

    def _verification_failed(self, job: VerificationJob, error: Exception) -> None:
        what = f"{job.name} could not be verified or recorded"
        self._report_failure("unverified", job.name, what, error)

    def _retry(self, plan: SavePlan, why: str) -> None:
        if self._policy.on_failure == "resave":
            self.outcomes.add_retry(plan, why)

    def _report_failure(self, kind: str, name: str, what: str, error: Exception) -> None:
        self.outcomes.add_problem(failure_of(what, error, str(self._directory.path)))
        self._directory.events.append(kind, name=name, why=reason_of(error))

    def _removed(self, name: str) -> None:
        self._names.discard(name)

    def _log_skipped(self, name: str, due: Due, why: str) -> None:
        self._directory.events.append("skipped", name=name, reasons=due.reasons, why=why)

    # The end.

    @property
    def pending(self) -> int:
        """The number of checkpoints not yet written or not yet verified."""
        return self._writer.pending + self._verifier.pending

    def computed(self) -> float:
        """Return the processor seconds of the background, the verifying process included."""
        return self._computed + self._verifier.computed()

    def join(self, on_left: Callable[[int], None] = lambda count: None) -> None:
        """Wait until everything is written, and verified as far as `limits.final_wait` allows.

        on_left: called with the number of checkpoints that are still to be verified.
        """
        if self._policy.limits.final_wait is not None:
            self._verifier.accept_all()  # the writer's queue is bounded, and need not wait
        self._writer.join()
        if not self._verifier.finish(on_left):
            self.outcomes.add_notice(
                f"checkpoints stay unverified: {NO_LONGER};"
                f" `savekit verify {self._directory.path}` verifies them"
            )

    def close(
        self, until: float | None = None, on_left: Callable[[int], None] = lambda count: None
    ) -> bool:
        """Finish every save, as `join` does; return whether all is done.

        until: when to stop waiting, by the monotonic clock. The rest continues as long as
            the process lives: publishing is atomic, and the next resume verifies what is
            not verified then.
        """
        self.outcomes.write_events()
        if until is None:
            self.join(on_left)
        # The writer hands over to the verifier, which is closed when nothing more can come.
        for part in (self._writer, self._verifier):
            if not part.close(None if until is None else max(0.0, until - time.monotonic())):
                return False
        return True


def _needs_verification(checkpoint: Checkpoint, plan: SavePlan) -> bool:
    reached = checkpoint.verification
    if reached is None or not reached.done:
        return True
    shallower = DEPTHS.index(reached.depth) < DEPTHS.index(plan.verify)
    return reached.good and shallower and not reached.note
