"""How a training begins: from scratch, or from a checkpoint.

    select -> reconcile -> position -> restore -> report

Several savekit callbacks in one `fit` begin together: the first one selects the newest
checkpoint of all their directories, the others follow it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_savekit.backend import random_state
from keras_savekit.errors import DirectoryError, ResumeError
from keras_savekit.fit import callback_state
from keras_savekit.fit.context import Kit, RunningSession, SessionContext
from keras_savekit.fit.reporting import Reporter
from keras_savekit.fit.restoration import Restoration, callback_states
from keras_savekit.fit.steering import Fit
from keras_savekit.model import metrics
from keras_savekit.model.assign import find_differences
from keras_savekit.resume.load import LoadedCheckpoint, load_checkpoint
from keras_savekit.resume.position import Position, find_position
from keras_savekit.resume.reconcile import RESTORED, Reconciled, reconcile
from keras_savekit.resume.record import select_and_record
from keras_savekit.resume.report import Restored, worst
from keras_savekit.resume.select import select
from keras_savekit.resume.state import TrainingState, stopped_for_good
from keras_savekit.store.checkpoint import Checkpoint
from keras_savekit.store.naming import CheckpointName
from keras_savekit.store.run import RunDirectory


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """Where a training resumes.

    owner: the kit whose checkpoint it is.
    state: the training state in the checkpoint.
    optimizer: its settings in the code that started the training.
    """

    owner: Kit
    restored: Restored
    restoration: Restoration
    state: TrainingState
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
        """Make `fit` resume here, or end at once and report it if nothing is left to do.

        epochs: as requested of `fit`.
        """
        epoch, stopped = self.restored.moment.epoch, stopped_for_good(self.state, epochs)
        fit.start_at(max(epoch, epochs) if stopped else epoch)
        if epoch >= epochs:
            report.info(f"nothing left to do: {epoch} of {epochs} epochs are trained")
        elif stopped:
            report.info(
                f"nothing left to do: a callback stopped the training after {epoch} of "
                f"{epochs} epochs; to continue anyway, request more epochs of fit"
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
    owner, loaded, skipped = _select(context)
    if loaded is None or owner is None:
        for reason in skipped:
            context.report.info(f"skipped {reason}")
        callback_state.start_over(fit.other_callbacks())
        return None
    loaded = _before_the_end(owner.directory, loaded, epochs, context.wall())
    reconciled = reconcile(
        loaded,
        model,
        optimizer,
        RESTORED,
        source=context.source,
        on_mismatch=owner.policy.resume.on_mismatch,
    )
    position = find_position(loaded, context.source, length or loaded.state["length"])
    callbacks = [callback for callback in fit.callbacks() if callback is not owner]
    with_metrics = _with_metrics(context, model, reconciled, position)
    lost = _not_restored(reconciled, position, model, callbacks, epochs)
    if position.moment.batch and not with_metrics:
        lost += ("its metrics differ; the logs of this epoch start over",)
    restoration = Restoration(
        reconciled, position.moment, model, callbacks, with_metrics=with_metrics
    )
    restoration.restore_at_train_begin()
    restored = Restored(
        loaded.checkpoint.name,
        position.moment,
        worst(position.level, reconciled.level, "position" if lost else "exact"),
        reconciled.reasons + position.reasons + lost,
        skipped,
    )
    context.report.info(str(restored))
    settings = optimizer if reconciled.reasons else loaded.state["optimizer"]
    return ResumePlan(owner, restored, restoration, loaded.state, settings)


def _select(
    context: SessionContext,
) -> tuple[Kit | None, LoadedCheckpoint | None, tuple[str, ...]]:
    """The newest checkpoint of all kits that may resume, its kit, and why others were skipped."""
    for kit in context.kits:
        if kit.policy.resume.mode == "never":
            _require_empty(kit.directory)
    resuming = [kit for kit in context.kits if kit.policy.resume.mode != "never"]
    # Of equal steps the last kit's is selected: it was saved when the others were done.
    selection = select_and_record([kit.writer for kit in resuming], context.wall())
    skipped = tuple(map(str, selection.skipped))
    chosen = selection.chosen
    if chosen is None:
        _require_not_required(context.kits, skipped)
        return None, None, skipped
    owner = next(kit for kit in resuming if kit.writer is chosen.directory)
    return owner, selection.content, skipped


def _before_the_end(
    directory: RunDirectory, loaded: LoadedCheckpoint, epochs: int, now: float
) -> LoadedCheckpoint:
    """Of the same step, the checkpoint from before callbacks changed the weights at the end.

    For a training that continues; a training that has ended keeps its last weights.
    """
    moment = loaded.checkpoint.manifest.moment
    continues = moment.epoch < epochs and not stopped_for_good(loaded.state, epochs)
    if not (continues and loaded.state.get("ended")):
        return loaded

    def same_step(checkpoint: Checkpoint) -> bool:
        return checkpoint.manifest.moment.step == moment.step and checkpoint.status == "verified"

    def read(checkpoint: Checkpoint) -> LoadedCheckpoint | None:
        other = load_checkpoint(checkpoint)
        return None if other.state.get("ended") else other

    # If none can be read, the selected one is good too.
    return select([directory], now, read, among=same_step).content or loaded


def _not_restored(
    reconciled: Reconciled, position: Position, model: Any, callbacks: Sequence[Any], epochs: int
) -> tuple[str, ...]:
    """What else keeps the resume from being exact."""
    loaded, complete = reconciled.loaded, reconciled.level != "weights only"
    lost: tuple[str, ...] = ()
    if complete:
        lost += callback_state.not_restored(callbacks, callback_states(loaded))
    if loaded.state.get("ended") and position.moment.epoch < epochs:
        lost += callback_state.weights_changed_at_end(callbacks)
    if complete:
        lost += random_state.drawing_in_kernels(model)
    return lost


def _with_metrics(
    context: SessionContext, model: Any, reconciled: Reconciled, position: Position
) -> bool:
    """Whether to restore metric values: in the middle of an epoch, if the metrics are the same."""
    if not position.moment.batch or reconciled.level == "weights only" or context.source is None:
        return False
    metrics.build(model, context.source.first_batch)
    manifest = reconciled.loaded.checkpoint.manifest
    return not find_differences(model, manifest, ("metric",))


def _require_not_required(kits: Sequence[Kit], skipped: Sequence[str]) -> None:
    """Raise ResumeError if a kit's policy says `resume: required`."""
    for kit in kits:
        if kit.policy.resume.mode == "required":
            listed = "".join(f"\n  {reason}" for reason in skipped)
            raise ResumeError(
                f"there is no checkpoint to resume from{listed}",
                str(kit.directory.path),
                "write `resume: auto` to start from scratch instead",
            )


def _require_empty(directory: RunDirectory) -> None:
    if any(CheckpointName.parse(name) for name in directory.names()):
        raise DirectoryError(
            "contains the checkpoints of an earlier run, and the policy says `resume: never`",
            str(directory.path),
            "choose another directory, or write `resume: auto`; nothing was changed",
        )
