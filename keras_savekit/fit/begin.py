"""How a training begins: anew, or where a checkpoint stands.

Finds the checkpoint, compares it with the model, puts it back, and tells the
user and `fit` where training goes on. Several savekit callbacks in one `fit`
begin together: the first to begin chooses the newest checkpoint of all their
directories, the others follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from keras_savekit.backend import random_state
from keras_savekit.errors import CheckpointError, DirectoryError, ResumeError
from keras_savekit.fit import callback_state
from keras_savekit.fit.context import Kit, SessionContext
from keras_savekit.fit.restoration import RESTORED, Restoration, memory_of
from keras_savekit.fit.steering import Fit
from keras_savekit.model import metrics
from keras_savekit.model.assign import differing
from keras_savekit.resume import select
from keras_savekit.resume.reconcile import taken
from keras_savekit.resume.select import LEVELS, Found, Restored
from keras_savekit.store.naming import CheckpointName
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.depths import require_signed


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """Where a training goes on.

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
        """Write it into the event log of a kit."""
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

    def go_on(self, fit: Fit, epochs: int, tell: Callable[[str], None]) -> None:
        """Have `fit` go on here, or end at once if nothing is left to do, which is told.

        epochs: as asked of `fit`.
        """
        epoch, stopped_before = self.restored.moment.epoch, _stopped(self.state, epochs)
        fit.start_at(max(epoch, epochs) if stopped_before else epoch)
        if epoch >= epochs:
            tell(f"nothing left to do: {epoch} of {epochs} epochs are trained")
        elif stopped_before:
            tell(
                f"nothing left to do: a callback stopped the training after {epoch} of "
                f"{epochs} epochs; to go on all the same, ask fit for more epochs"
            )


def begin(
    around: SessionContext,
    fit: Fit,
    model: Any,
    optimizer: Mapping[str, Any] | None,
    length: int | None,
    epochs: int,
) -> ResumePlan | None:
    """Put the newest checkpoint into the model and its callbacks; None if there is none.

    optimizer: settings of the model's.
    length: batches in an epoch, if that is known.
    epochs: as asked of `fit`.

    Raises MismatchError, ResumeError or DirectoryError, and has then changed nothing.
    """
    for kit in around.kits:
        if kit.policy.resume.mode == "never":
            _require_empty(kit.directory)
    owner, found, passed = _newest(around)
    _require_found(around.kits, found, passed)
    if found is None or owner is None:
        for each in passed:
            around.tell(f"passed over {each}")
        callback_state.start_anew(fit.others())
        return None
    found = _not_ended(owner.directory, found, epochs)
    agreed = taken(
        found,
        model,
        optimizer,
        RESTORED,
        source=around.source,
        on_mismatch=owner.policy.resume.on_mismatch,
    )
    length = length or found.state["length"]
    moment, level, reasons = select.position(found, around.source, length)
    others = [each for each in fit.listed() if each is not owner]
    only_weights = agreed.level == "weights only"
    more = () if only_weights else callback_state.not_restored(others, memory_of(found))
    with_metrics = (
        bool(moment.batch) and not only_weights and _same_metrics(around, model, agreed.found)
    )
    if found.state.get("ended") and moment.epoch < epochs:
        more += callback_state.changed_at_the_end(others)
    more += () if only_weights else random_state.drawing_in_kernels(model)
    if moment.batch and not with_metrics:
        more += ("its metrics are others; the logs of this epoch begin anew",)
    restoration = Restoration(agreed, moment, model, others, with_metrics=with_metrics)
    restoration.training_begins()
    level = max(level, agreed.level, "position" if more else "exact", key=LEVELS.index)
    restored = Restored(
        found.checkpoint.name, moment, level, agreed.reasons + reasons + more, passed
    )
    around.tell(str(restored))
    settings = found.state["optimizer"] if not agreed.reasons else optimizer
    return ResumePlan(owner, restored, restoration, found.state, settings)


def _newest(around: SessionContext) -> tuple[Kit | None, Found | None, tuple[str, ...]]:
    """The newest checkpoint of all kits that may resume, and what was passed over."""
    resuming = [kit for kit in around.kits if kit.policy.resume.mode != "never"]
    # Of one step the last kit's: it was saved when the others had done their part.
    steps = [(_last_step(kit.directory), place, kit) for place, kit in enumerate(resuming)]
    owner: Kit | None = None
    found: Found | None = None
    passed: tuple[str, ...] = ()
    for last, _, kit in sorted(steps, key=lambda each: each[:2], reverse=True):
        if found is not None and _step(found) >= last:
            break
        candidate, over = select.find(kit.writer, around.wall())
        passed += over
        if candidate is not None and (found is None or _step(candidate) > _step(found)):
            owner, found = kit, candidate
    return owner, found, passed


def _stopped(state: Mapping[str, Any], epochs: int) -> bool:
    """Whether a callback had stopped the training, and no more was asked for since."""
    return bool(state["stopped"]) and epochs <= state["epochs"]


def _not_ended(directory: RunDirectory, found: Found, epochs: int) -> Found:
    """Of the same step, what was saved before callbacks changed the weights at the end.

    For a training that is to go on; one that has ended keeps its last weights.
    """
    going_on = found.checkpoint.manifest.moment.epoch < epochs and not _stopped(found.state, epochs)
    if not (going_on and found.state.get("ended")):
        return found
    for each in reversed(directory.checkpoints()):
        if each.manifest.moment.step == _step(found) and each.status == "verified":
            with suppress(CheckpointError):  # it was whole; what was found stands in for it
                require_signed(each.path, directory.key)
                other = select.read(each)
                if not other.state.get("ended"):
                    return other
    return found


def _step(found: Found) -> int:
    return found.checkpoint.manifest.moment.step


def _last_step(directory: RunDirectory) -> int:
    return max((each.manifest.moment.step for each in directory.checkpoints()), default=-1)


def _require_found(kits: Sequence[Kit], found: Found | None, passed: Sequence[str]) -> None:
    for kit in kits:
        if found is None and kit.policy.resume.mode == "required":
            raise ResumeError(
                "there is no checkpoint to resume from" + "".join(f"\n  {each}" for each in passed),
                str(kit.directory.path),
                "write `resume: auto` to start from the beginning instead",
            )


def _same_metrics(around: SessionContext, model: Any, found: Found) -> bool:
    if around.source is None:
        return False
    metrics.build(model, around.source.first_batch)
    return not differing(model, found.checkpoint.manifest, ("metric",))


def _require_empty(directory: RunDirectory) -> None:
    if any(CheckpointName.parse(name) for name in directory.names()):
        raise DirectoryError(
            "holds the checkpoints of an earlier run, and the policy says `resume: never`",
            str(directory.path),
            "choose another directory, or write `resume: auto`; nothing was changed",
        )
