"""Begin a training: from scratch, or from a checkpoint.

Finds the checkpoint, compares it with the model, restores it, and reports where
training resumes. Several savekit callbacks in one `fit` begin together: the first
one chooses the newest checkpoint of all their directories, the others follow it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from keras_savekit.backend import random_state
from keras_savekit.errors import CheckpointError, DirectoryError, ResumeError
from keras_savekit.fit import callback_state
from keras_savekit.fit.context import Kit, RunningSession, SessionContext
from keras_savekit.fit.reporting import Reporter
from keras_savekit.fit.restoration import RESTORED, Restoration, callback_states_of
from keras_savekit.fit.steering import Fit
from keras_savekit.model import metrics
from keras_savekit.model.assign import differing
from keras_savekit.resume import select
from keras_savekit.resume.reconcile import Reconciled, taken
from keras_savekit.resume.select import LEVELS, Found, Level, Restored
from keras_savekit.store.naming import CheckpointName
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.depths import require_signed


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """Where a training resumes.

    owner: the kit whose checkpoint it is.
    state: the training's state in the checkpoint.
    optimizer: its settings as the code that began the training had them.
    """

    owner: Kit
    restored: Restored
    restoration: Restoration
    state: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None

    def record(self, kit: Kit) -> None:
        """Write the resume into the event log of a kit."""
        restored, moment = self.restored, self.restored.moment
        elsewhere = {} if kit is self.owner else {"of": str(self.owner.directory.path)}
        kit.directory.events.append(
            "resumed",
            name=restored.name,
            level=restored.level,
            reasons=restored.reasons,
            epoch=moment.epoch,
            batch=moment.batch,
            step=moment.step,
            passed_over=restored.passed_over,
            **elsewhere,
        )

    def apply(self, fit: Fit, epochs: int, report: Reporter) -> None:
        """Make `fit` start here, or end at once, with a report, if nothing is left to do.

        epochs: as requested of `fit`.
        """
        epoch, stopped_before = self.restored.moment.epoch, _is_stopped(self.state, epochs)
        fit.start_at(max(epoch, epochs) if stopped_before else epoch)
        if epoch >= epochs:
            report.info(f"nothing left to do: {epoch} of {epochs} epochs are trained")
        elif stopped_before:
            report.info(
                f"nothing left to do: a callback stopped the training after {epoch} of "
                f"{epochs} epochs; to continue all the same, ask fit for more epochs"
            )


def leader_of(context: SessionContext, fit: Fit) -> RunningSession | None:
    """Return the session that has begun this `fit` already, if another kit has one."""
    sessions = (kit.session for kit in context.kits)
    return next((other for other in sessions if other is not None and other.within(fit)), None)


def begin(
    context: SessionContext,
    fit: Fit,
    model: Any,
    optimizer: Mapping[str, Any] | None,
    length: int | None,
    epochs: int,
) -> ResumePlan | None:
    """Restore the newest checkpoint into the model and its callbacks; None if there is none.

    optimizer: settings of the model's optimizer.
    length: batches in an epoch, if that is known.
    epochs: as requested of `fit`.

    Raises MismatchError, ResumeError or DirectoryError, and has then changed nothing.
    """
    for kit in context.kits:
        if kit.policy.resume.mode == "never":
            _require_empty(kit.directory)
    owner, found, skipped = _newest(context)
    _require_found(context.kits, found, skipped)
    if found is None or owner is None:
        for line in skipped:
            context.report.info(f"skipped {line}")
        callback_state.start_over(fit.other_callbacks())
        return None
    found = _not_ended(owner.directory, found, epochs)
    reconciled = taken(
        found,
        model,
        optimizer,
        RESTORED,
        source=context.source,
        on_mismatch=owner.policy.resume.on_mismatch,
    )
    length = length or found.state["length"]
    moment, level, reasons = select.position(found, context.source, length)
    others = [callback for callback in fit.callbacks() if callback is not owner]
    with_metrics = (
        bool(moment.batch)
        and reconciled.level != "weights only"
        and _has_same_metrics(context, model, reconciled.found)
    )
    lacks = _inexact_parts(reconciled, others, model, ended=moment.epoch < epochs)
    if moment.batch and not with_metrics:
        lacks += ("its metrics are others; the logs of this epoch start over",)
    restoration = Restoration(reconciled, moment, model, others, with_metrics=with_metrics)
    restoration.restore_at_train_begin()
    best: Level = "position" if lacks else "exact"
    level = max(level, reconciled.level, best, key=LEVELS.index)
    reasons = reconciled.reasons + reasons + lacks
    restored = Restored(found.checkpoint.name, moment, level, reasons, skipped)
    context.report.info(str(restored))
    settings = found.state["optimizer"] if not reconciled.reasons else optimizer
    return ResumePlan(owner, restored, restoration, found.state, settings)


def _inexact_parts(
    reconciled: Reconciled, callbacks: Sequence[Any], model: Any, *, ended: bool
) -> tuple[str, ...]:
    """Return what is not restored beside the model's variables, as sentences.

    ended: whether it matters that the checkpoint was saved when training had ended.
    """
    found, weights_only = reconciled.found, reconciled.level == "weights only"
    lacks: tuple[str, ...] = ()
    if not weights_only:
        lacks = callback_state.not_restored(callbacks, callback_states_of(found))
    if found.state.get("ended") and ended:
        lacks += callback_state.weights_changed_at_end(callbacks)
    return lacks if weights_only else lacks + random_state.of_kernels(model)


def _newest(context: SessionContext) -> tuple[Kit | None, Found | None, tuple[str, ...]]:
    """Return the newest checkpoint of all kits that may resume, and what was skipped."""
    resuming = [kit for kit in context.kits if kit.policy.resume.mode != "never"]
    # Of one step the last kit's: the other callbacks had done their part when it was saved.
    steps = [(_last_step(kit.directory), place, kit) for place, kit in enumerate(resuming)]
    owner: Kit | None = None
    found: Found | None = None
    skipped: tuple[str, ...] = ()
    for last, _, kit in sorted(steps, key=lambda entry: entry[:2], reverse=True):
        if found is not None and _step(found) >= last:
            break
        candidate, more = select.find(kit.directory, context.wall())
        skipped += more
        if candidate is not None and (found is None or _step(candidate) > _step(found)):
            owner, found = kit, candidate
    return owner, found, skipped


def _is_stopped(state: Mapping[str, Any], epochs: int) -> bool:
    """Return whether a callback had stopped the training, and no more epochs are requested."""
    return bool(state["stopped"]) and epochs <= state["epochs"]


def _not_ended(directory: RunDirectory, found: Found, epochs: int) -> Found:
    """Return the checkpoint of the same step from before the training's end, if one is needed.

    At the end, callbacks change weights. A training that continues needs those from before;
    one that has ended keeps its last weights.
    """
    moment = found.checkpoint.manifest.moment
    continues = moment.epoch < epochs and not _is_stopped(found.state, epochs)
    if not (continues and found.state.get("ended")):
        return found
    for checkpoint in reversed(directory.checkpoints()):
        if checkpoint.manifest.moment.step == moment.step and checkpoint.status == "verified":
            with suppress(CheckpointError):  # damaged since: the one that was found is used
                require_signed(checkpoint.path, directory.key)
                other = select.read(checkpoint)
                if not other.state.get("ended"):
                    return other
    return found


def _step(found: Found) -> int:
    return found.checkpoint.manifest.moment.step


def _last_step(directory: RunDirectory) -> int:
    steps = (checkpoint.manifest.moment.step for checkpoint in directory.checkpoints())
    return max(steps, default=-1)


def _require_found(kits: Sequence[Kit], found: Found | None, skipped: Sequence[str]) -> None:
    for kit in kits:
        if found is None and kit.policy.resume.mode == "required":
            raise ResumeError(
                "there is no checkpoint to resume from"
                + "".join(f"\n  {line}" for line in skipped),
                str(kit.directory.path),
                "write `resume: auto` to start from scratch instead",
            )


def _has_same_metrics(context: SessionContext, model: Any, found: Found) -> bool:
    if context.source is None:
        return False
    metrics.build(model, context.source.first_batch)
    return not differing(model, found.checkpoint.manifest, ("metric",))


def _require_empty(directory: RunDirectory) -> None:
    if any(CheckpointName.parse(name) for name in directory.names()):
        raise DirectoryError(
            "contains the checkpoints of an earlier run, and the policy says `resume: never`",
            str(directory.path),
            "choose another directory, or write `resume: auto`; nothing was changed",
        )
