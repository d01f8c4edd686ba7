"""Restore a checkpoint of a run into a model, outside of `fit`.

Nothing in the run's directory changes. Under `fit`, the savekit callback resumes by
itself: see `fit.begin`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_savekit.backend import random_state
from keras_savekit.base.key import Key
from keras_savekit.base.roles import Role
from keras_savekit.errors import DirectoryError, ResumeError
from keras_savekit.formats import state_h5
from keras_savekit.formats.state_h5 import STATE_FILE
from keras_savekit.model.assign import computed_values, restore_variables
from keras_savekit.model.compile_settings import CompileSettings
from keras_savekit.model.layer_loading import Extras
from keras_savekit.model.live_variables import build_optimizer, require_built
from keras_savekit.model.saving_walk import collect_available_assets
from keras_savekit.policy.resume import OnMismatch
from keras_savekit.policy.signing import secret_of
from keras_savekit.resume.load import LoadedCheckpoint, load_checkpoint
from keras_savekit.resume.reconcile import RESTORED, Reconciled, reconcile
from keras_savekit.resume.report import Level, Restored
from keras_savekit.resume.select import select
from keras_savekit.store.checkpoint import Checkpoint
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.depths import require_signed


def restore(
    model: Any,
    directory: str | os.PathLike[str],
    which: str = "latest",
    *,
    on_mismatch: OnMismatch = "error",
    key: bytes | None = None,
) -> Restored:
    """Restore a checkpoint of a run into a model, outside of `fit`.

    model: built. Its weights and seed generators are set, and if it is compiled the
        optimizer too, together with the process's random generators.
    directory: of a run; it is only read. If the run signs its checkpoints, the
        environment variable that its policy names must contain the key.
    which: "latest", the newest good checkpoint; "best", the target of the link `best`; or
        the name of a checkpoint.
    on_mismatch: what to do if the model or the optimizer differ from the checkpoint's:
        "error", "weights" or "ignore", as in the policy's `resume.on_mismatch`.
    key: that checkpoints must be signed with, also if the run's own policy does not say so: an
        attacker who can change checkpoints can change that policy too.

    Returns which checkpoint it was, the position of its training, and how much was
    restored. Metrics, data and callbacks are not: the training that follows has its own.

    Raises DirectoryError if there is no such run, ResumeError if it has no such
    checkpoint, CheckpointError if the named one is damaged, ModelError and
    MismatchError, naming what differs, if it does not fit. The model is then
    unchanged.
    """
    require_built(model)
    loaded, skipped = _load(_open_run(Path(directory), key), which)
    compiled = getattr(model, "optimizer", None) is not None
    roles: tuple[Role, ...] = RESTORED if compiled else ("weight", "seed")
    build_optimizer(model)
    settings = CompileSettings.of(model).optimizer if compiled else None
    reconciled = reconcile(loaded, model, settings, roles, source=None, on_mismatch=on_mismatch)
    restore_model(reconciled, model, reconciled.roles, changed_assets(reconciled, model))
    level: Level = reconciled.level if compiled else "weights only"
    reasons = () if compiled else ("the model is not compiled, so it has no optimizer",)
    return Restored(
        loaded.checkpoint.name,
        loaded.checkpoint.manifest.moment,
        level,
        reconciled.reasons + reasons,
        skipped,
    )


def restore_model(
    reconciled: Reconciled, model: Any, roles: tuple[Role, ...], assets: Mapping[str, bytes]
) -> None:
    """Set the model's variables of these roles, and unless only weights fit the random state.

    Raises MismatchError, and has then changed nothing, if a layer refuses what it saved.
    """
    loaded = reconciled.loaded
    manifest, where = loaded.checkpoint.manifest, str(loaded.checkpoint.path)
    complete = reconciled.level != "weights only"
    computed = computed_values(manifest, loaded.tensors) if complete else {}
    restore_variables(model, loaded.tensors, roles, Extras(computed, assets), where)
    if complete:
        random_state.restore(loaded.state["randomness"])


def changed_assets(reconciled: Reconciled, model: Any) -> Mapping[str, bytes]:
    """The checkpoint's vocabularies and other assets; none if the layers have the same ones."""
    if reconciled.level == "weights only":
        return {}
    saved = state_h5.read_assets(reconciled.loaded.checkpoint.path / STATE_FILE)
    return saved if saved and saved != collect_available_assets(model) else {}


def _open_run(path: Path, secret: bytes | None) -> RunDirectory:
    run = RunDirectory(path)
    if not run.exists:
        raise DirectoryError("not the directory of a run", str(path))
    if secret is not None:
        return RunDirectory(path, Key(secret))
    info = run.run_info()
    return RunDirectory(path, secret_of(info.policy, os.environ) if info else None)


def _load(run: RunDirectory, which: str) -> tuple[LoadedCheckpoint, tuple[str, ...]]:
    """Load the requested checkpoint; return with it why newer ones were skipped."""
    if which == "latest":
        return _load_latest(run)
    name = run.linked("best") if which == "best" else which
    if name is None:
        remedy = "name one: see `savekit list`"
        raise ResumeError("no checkpoint is the best yet", str(run.path), remedy)
    with run.reading(name) as path:
        require_signed(path, run.key)
        return load_checkpoint(run.open(name)), ()


def _load_latest(run: RunDirectory) -> tuple[LoadedCheckpoint, tuple[str, ...]]:
    def read(checkpoint: Checkpoint) -> LoadedCheckpoint:
        with run.reading(checkpoint.name):
            return load_checkpoint(checkpoint)

    selection = select([run], time.time(), read)
    skipped = tuple(map(str, selection.skipped))
    for search in selection.searches:
        search.require_readable()
        search.require_known()
    if selection.content is None:
        listed = "".join(f"\n  {reason}" for reason in skipped)
        raise ResumeError(f"there is no checkpoint{listed}", str(run.path))
    return selection.content, skipped
