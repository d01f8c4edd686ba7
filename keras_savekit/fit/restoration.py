"""Restore a checkpoint into a model and its callbacks.

When training resumes at an epoch's beginning, everything is restored once, after
every callback's `on_train_begin`. In the middle of an epoch it is restored once more,
after every callback's `on_epoch_begin`: by then a schedule has set the learning rate
again and `fit` has reset the metrics, which the stopped training did much earlier.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keras_savekit.backend import random_state
from keras_savekit.base.key import Key
from keras_savekit.base.moment import Moment
from keras_savekit.base.roles import Role
from keras_savekit.errors import CheckpointError, DirectoryError, ResumeError, UnverifiableError
from keras_savekit.fit import callback_state
from keras_savekit.fit.callback_state import CallbackStates
from keras_savekit.formats import state_h5
from keras_savekit.formats.state_h5 import STATE_FILE
from keras_savekit.model.assign import assign
from keras_savekit.model.saving_walk import assets, put_assets
from keras_savekit.model.structure import Configuration, build_optimizer, require_built
from keras_savekit.policy.resume import OnMismatch
from keras_savekit.policy.signing import secret_of
from keras_savekit.resume.candidates import (
    Candidate,
    candidates,
    require_known,
    require_process_can,
)
from keras_savekit.resume.reconcile import Reconciled, taken
from keras_savekit.resume.select import Found, Level, Restored, read
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.depths import require_signed

RESTORED: tuple[Role, ...] = ("weight", "optimizer", "seed")


class Restoration:
    """Restore the reconciled part of a checkpoint.

    moment: where training resumes: the checkpoint's moment or an epoch's beginning.
    with_metrics: whether the checkpoint's metrics are those of the model.

    Everything was compared before, so a restoration does not fail half way.
    """

    def __init__(
        self,
        reconciled: Reconciled,
        moment: Moment,
        model: Any,
        callbacks: Sequence[Any],
        *,
        with_metrics: bool,
    ) -> None:
        self._reconciled = reconciled
        self._model = model
        self._callbacks = callbacks
        self._with_metrics = with_metrics
        self._in_mid_epoch = moment.batch > 0

    def restore_at_train_begin(self) -> None:
        """Restore after the `on_train_begin` of every other callback."""
        if self._reconciled.level != "weights only":
            self._restore_assets()
        self._restore(self._reconciled.roles)

    def _restore_assets(self) -> None:
        """Restore vocabularies and similar assets, unless the layers have the same ones."""
        saved = state_h5.read_assets(self._reconciled.found.checkpoint.path / STATE_FILE)
        if saved and saved != assets(self._model):
            put_assets(self._model, saved)

    def restore_at_epoch_begin(self) -> None:
        """Restore after the `on_epoch_begin` of every other callback, in this session's first."""
        if self._in_mid_epoch:
            roles = self._reconciled.roles
            self._restore((*roles, "metric") if self._with_metrics else roles)

    def _restore(self, roles: tuple[Role, ...]) -> None:
        found = self._reconciled.found
        assign(self._model, found.tensors, roles)
        if self._reconciled.level != "weights only":
            random_state.restore(found.state["randomness"])
            callback_state.restore(self._callbacks, callback_states_of(found))


def callback_states_of(found: Found) -> CallbackStates:
    """Return the states of callbacks that a checkpoint contains."""
    names = [entry for entry in found.checkpoint.manifest.tensors if entry.role == "callback"]
    arrays: Mapping[str, Any] = {
        entry.name: found.tensors[entry.role, entry.index] for entry in names
    }
    return CallbackStates(found.state["callbacks"], arrays)


def restore(
    model: Any,
    directory: str | os.PathLike[str],
    which: str = "latest",
    *,
    on_mismatch: OnMismatch = "error",
    key: bytes | None = None,
) -> Restored:
    """Restore a checkpoint of a run into a model, outside of `fit`.

    model: built; its weights and seed generators are set, and if it is compiled the
        optimizer too, together with the process's random generators.
    directory: of a run; it is only read. If its policy says that checkpoints are signed,
        the variable that the policy names must contain the key.
    which: "latest", the newest checkpoint that is whole; "best", the checkpoint that the
        link `best` names; or the name of a checkpoint.
    on_mismatch: when model or optimizer are not those of the checkpoint: "error",
        "weights" or "ignore", as in the policy's `resume.on_mismatch`.
    key: the key that checkpoints must be signed with, whatever the policy in the directory
        says: whoever changes the checkpoints can change that policy too.

    Returns the checkpoint, its moment, and how much was restored. Metrics, data and
    callbacks are restored by the training that follows: in `fit` the savekit callback
    resumes by itself.

    Raises DirectoryError if there is no such run, ResumeError if it has no such
    checkpoint, CheckpointError if the named one is damaged, ModelError and MismatchError,
    with what differs, if it does not fit. The model is then unchanged.
    """
    require_built(model)
    found, skipped = _choose(_open_run(Path(directory), key), which)
    compiled = getattr(model, "optimizer", None) is not None
    roles: tuple[Role, ...] = RESTORED if compiled else ("weight", "seed")
    build_optimizer(model)
    settings = Configuration.of(model).optimizer if compiled else None
    reconciled = taken(found, model, settings, roles, source=None, on_mismatch=on_mismatch)
    Restoration(reconciled, Moment(), model, (), with_metrics=False).restore_at_train_begin()
    level: Level = reconciled.level if compiled else "weights only"
    reasons = () if compiled else ("the model is not compiled, so it has no optimizer",)
    checkpoint, all_reasons = found.checkpoint, reconciled.reasons + reasons
    return Restored(checkpoint.name, checkpoint.manifest.moment, level, all_reasons, skipped)


def _open_run(path: Path, secret: bytes | None) -> RunDirectory:
    run = RunDirectory(path)
    if not run.exists:
        raise DirectoryError("not the directory of a run", str(path))
    if secret is not None:
        return RunDirectory(path, Key(secret))
    info = run.run_info()
    return RunDirectory(path, secret_of(info.policy, os.environ) if info else None)


def _choose(run: RunDirectory, which: str) -> tuple[Found, tuple[str, ...]]:
    where = str(run.path)
    skipped: list[str] = []
    unknown: list[Candidate] = []
    if which == "latest":
        for candidate in candidates(run, time.time()):
            if candidate.usable and candidate.checkpoint is not None:
                try:
                    with run.reading(candidate.name):
                        return read(candidate.checkpoint), tuple(skipped)
                except UnverifiableError as error:
                    candidate = replace(candidate, failure=error)  # noqa: PLW2901
                except CheckpointError as error:
                    skipped.append(f"{candidate.name}: {error.what}")
                    continue
            if candidate.failure is not None:
                require_process_can(candidate.failure, where)
                unknown.append(candidate)
            skipped.append(f"{candidate.name}: {candidate.why_not()}")
        require_known(unknown, where)
        lines = "".join(f"\n  {line}" for line in skipped)
        raise ResumeError(f"there is no checkpoint{lines}", where)
    name = run.linked("best") if which == "best" else which
    if name is None:
        raise ResumeError("no checkpoint is the best yet", where, "name one: see `savekit list`")
    with run.reading(name) as path:
        require_signed(path, run.key)
        return read(run.open(name)), ()
