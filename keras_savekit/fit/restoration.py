"""A checkpoint on its way back into a `fit`.

When training goes on from an epoch's beginning, everything is put back once,
after every callback's `on_train_begin`. In the middle of an epoch it is put back
once more after every callback's `on_epoch_begin`, which in the training that was
stopped had happened long before: a schedule has set the learning rate again,
`fit` has reset the metrics.
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
from keras_savekit.model.assign import computed_of, set_all
from keras_savekit.model.layer_loading import Extras
from keras_savekit.model.saving_walk import assets_if_any
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
    """Puts what is taken of a checkpoint back into a model and its callbacks.

    moment: where training goes on, which is the checkpoint's own or an epoch's beginning.
    with_metrics: whether the checkpoint's metrics are those of the model.

    Everything was compared before; where a layer refuses to load, nothing is changed.
    """

    def __init__(
        self,
        what: Reconciled,
        moment: Moment,
        model: Any,
        callbacks: Sequence[Any],
        *,
        with_metrics: bool,
    ) -> None:
        self._what = what
        self._model = model
        self._callbacks = callbacks
        self._with_metrics = with_metrics
        self._in_mid_epoch = moment.batch > 0

    def training_begins(self) -> None:
        """Every other callback has begun.

        Raises MismatchError, and has then changed nothing, if a layer refuses what it saved.
        """
        self._put_back(self._what.roles, self._changed_assets())

    def _changed_assets(self) -> Mapping[str, bytes]:
        """Vocabularies and the like; none if the layers have the same ones."""
        if self._what.level == "weights only":
            return {}
        saved = state_h5.read_assets(self._what.found.checkpoint.path / STATE_FILE)
        return saved if saved and saved != assets_if_any(self._model) else {}

    def epoch_begins(self) -> None:
        """The first epoch of this session has begun in every other callback."""
        if self._in_mid_epoch:
            roles = self._what.roles
            self._put_back((*roles, "metric") if self._with_metrics else roles, {})

    def _put_back(self, roles: tuple[Role, ...], assets: Mapping[str, bytes]) -> None:
        found = self._what.found
        manifest, where = found.checkpoint.manifest, str(found.checkpoint.path)
        whole = self._what.level != "weights only"
        computed = computed_of(manifest, found.tensors) if whole else {}
        set_all(self._model, found.tensors, roles, Extras(computed, assets), where)
        if whole:
            random_state.restore(found.state["randomness"])
            callback_state.put_back(self._callbacks, memory_of(found))


def memory_of(found: Found) -> CallbackStates:
    """What callbacks remembered when the checkpoint was saved."""
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
    """Put a checkpoint of a run into a model, outside `fit`.

    model: built; its weights and seed generators are set, and if it is compiled the
        optimizer too, together with the process's random generators.
    directory: of a run; it is only read. If it says that it signs its checkpoints, the
        variable that its policy names must hold the key.
    which: "latest", the newest checkpoint that is whole; "best", what the link
        `best` leads to; or the name of a checkpoint.
    on_mismatch: when model or optimizer are not those of the checkpoint: "error",
        "weights" or "ignore", as in the policy's `resume.on_mismatch`.
    key: that checkpoints must be signed with, whatever the directory says of itself:
        whoever changes them can change that too.

    Returns which checkpoint it was, where its training stood, and how much was
    restored: metrics, data and callbacks are the business of the training that
    follows. Under `fit` the savekit callback resumes by itself.

    Raises DirectoryError if there is no such run, ResumeError if it has no such
    checkpoint, CheckpointError if the one named is damaged, ModelError and
    MismatchError, naming what differs, if it does not fit; the model is then
    unchanged.
    """
    require_built(model)
    found, passed = _chosen(_run(Path(directory), key), which)
    compiled = getattr(model, "optimizer", None) is not None
    roles: tuple[Role, ...] = RESTORED if compiled else ("weight", "seed")
    build_optimizer(model)
    settings = Configuration.of(model).optimizer if compiled else None
    what = taken(found, model, settings, roles, source=None, on_mismatch=on_mismatch)
    Restoration(what, Moment(), model, (), with_metrics=False).training_begins()
    level: Level = what.level if compiled else "weights only"
    reasons = () if compiled else ("the model is not compiled, so it has no optimizer",)
    manifest = found.checkpoint.manifest
    return Restored(found.checkpoint.name, manifest.moment, level, what.reasons + reasons, passed)


def _run(path: Path, secret: bytes | None) -> RunDirectory:
    run = RunDirectory(path)
    if not run.exists:
        raise DirectoryError("not the directory of a run", str(path))
    if secret is not None:
        return RunDirectory(path, Key(secret))
    info = run.run_info()
    return RunDirectory(path, secret_of(info.policy, os.environ) if info else None)


def _chosen(run: RunDirectory, which: str) -> tuple[Found, tuple[str, ...]]:
    where = str(run.path)
    passed: list[str] = []
    unknown: list[Candidate] = []
    if which == "latest":
        for each in candidates(run, time.time()):
            if each.usable and each.checkpoint is not None:
                try:
                    with run.reading(each.name):
                        return read(each.checkpoint), tuple(passed)
                except UnverifiableError as error:
                    each = replace(each, failure=error)  # noqa: PLW2901
                except CheckpointError as error:
                    passed.append(f"{each.name}: {error.what}")
                    continue
            if each.failure is not None:
                require_process_can(each.failure, where)
                unknown.append(each)
            passed.append(f"{each.name}: {each.why_not()}")
        require_known(unknown, where)
        raise ResumeError("there is no checkpoint" + "".join(f"\n  {p}" for p in passed), where)
    name = run.linked("best") if which == "best" else which
    if name is None:
        raise ResumeError("no checkpoint is the best yet", where, "name one: see `savekit list`")
    with run.reading(name) as path:
        require_signed(path, run.key)
        return read(run.open(name)), ()
