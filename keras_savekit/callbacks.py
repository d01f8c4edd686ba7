"""The callbacks: they translate Keras's hooks into the session's methods.

Construction only reads and checks. The directory, the lock and every file are made
when `fit` begins, and the lock is released when it ends.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import keras

from keras_savekit.base.user_warning import warn
from keras_savekit.data.source import source_of
from keras_savekit.errors import DirectoryError
from keras_savekit.fit.callback_state import open_for_appending
from keras_savekit.fit.context import SessionContext
from keras_savekit.fit.reporting import Reporter
from keras_savekit.fit.session import Session
from keras_savekit.fit.steering import callbacks_of_fit, fit_is_starting, watch_start
from keras_savekit.policy.plan import Policy
from keras_savekit.policy.yaml.load import load_policy, policy_from
from keras_savekit.resume.report import Restored
from keras_savekit.store.atomic import write_bytes_durably
from keras_savekit.store.prepare import missing_features, prepare
from keras_savekit.store.run import RunDirectory
from keras_savekit.store.run_info import RUN
from keras_savekit.store.run_writer import RunWriter
from keras_savekit.verify.loader.probe import PROBE, to_bytes


class SaveKit(keras.callbacks.Callback):  # type: ignore[misc]
    """Save, verify, retain and resume, as a policy says. Put it last in the list of callbacks.

    policy: path of a YAML file, a `Policy`, or a dict of the same shape.
    directory: of this run; it overrides the policy's directory.
    data: what `keras_savekit.resumable` returned and `fit` trains on. With it a
        training resumes in the middle of an epoch, without it at an epoch's start.
    probe: a batch for `verify: predict`, as the model is called: an array, or a list or
        a dict of arrays. The directory keeps it. Without it a batch is drawn that fits
        the model's inputs.

    Raises PolicyError, SavekitError (the signing key is missing), DirectoryError (no
    directory is given, or a file is in its place) or DataError at once; the disk is
    only read. Until `fit` begins, a kit can be copied and pickled; copies share `data`.

    `fit` raises DirectoryError (the directory cannot be written, or another training
    uses it), ModelError, MismatchError, ResumeError or DataError before the first step;
    no checkpoint and no variable of the model was then changed.

    A failed save is reported by a SavekitWarning at the next hook, or under
    `on_failure: raise` by a SaveError at the next step. Earlier checkpoints are
    unaffected.

    resumed: after `fit` has begun, a `Restored` with the checkpoint and whether the
        resume is exact; None if training started from scratch.
    """

    def __init__(
        self,
        policy: str | os.PathLike[str] | Policy | Mapping[str, Any],
        *,
        directory: str | os.PathLike[str] | None = None,
        data: Any = None,
        probe: Any = None,
    ) -> None:
        super().__init__()
        self.policy = _policy(policy)
        path = directory or self.policy.directory
        if path is None:
            raise DirectoryError(
                "no directory to save into", "", "give directory=, or `directory:` in the policy"
            )
        self._source = source_of(data) if data is not None else None
        self._probe = to_bytes(probe) if probe is not None else None
        self.directory = self._run_directory(Path(path).absolute())
        _require_possible(self.directory.path)
        self._writer: RunWriter | None = None
        self._run = ""
        self._session: Session | None = None
        self._given: dict[str, Any] = {"memory": {}}
        self.resumed: Restored | None = None

    def _run_directory(self, path: Path) -> RunDirectory:
        signing = self.policy.signing
        return RunDirectory(path, None if signing is None else signing.secret(os.environ))

    # Copies: tuners and notebooks make them before `fit`.

    def __getstate__(self) -> dict[str, Any]:
        path = self.directory.path
        if self._writer is not None and self._writer.lock.held:
            raise DirectoryError(
                "a savekit callback cannot be copied while it trains",
                str(path),
                "copy it before fit or after it",
            )
        # The path alone: the signing key is in no copy.
        return {**self.__dict__, "directory": path, "_session": None, "_writer": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self.directory = self._run_directory(state["directory"])

    def __deepcopy__(self, memo: dict[int, Any]) -> SaveKit:
        if self._source is not None:  # `fit` trains on the data that the user has
            memo.setdefault(id(self._source), self._source)
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    # The beginning of `fit`.

    def set_model(self, model: Any) -> None:
        """Take the lock: Keras calls this before the `on_train_begin` of any callback."""
        super().set_model(model)
        if not fit_is_starting():
            return
        resumable = self.policy.resume.mode != "never" and self.directory.exists
        try:
            self._claim()
        except BaseException:
            for kit in self._kits():
                kit._release()
            raise
        watch_start(self._abandon)
        if resumable:
            open_for_appending(callbacks_of_fit())

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Resume, or start from scratch."""
        self._claim()
        report = Reporter(quiet=(self.params or {}).get("verbose") == 0)
        context = SessionContext(self, self._kits(), self._run, self._source, report)
        self._session = None
        try:
            self._session = Session(context, self.model, self.params or {})
        except BaseException:
            self._release()
            raise
        plan = self._session.resume_plan
        self.resumed = None if plan is None else plan.restored

    def _kits(self) -> tuple[SaveKit, ...]:
        """Return the savekit callbacks of this `fit`, in order."""
        kits = (callback for callback in callbacks_of_fit() if isinstance(callback, SaveKit))
        return tuple(kits) or (self,)

    def _claim(self) -> None:
        """Make the directory and lock it until training ends; nothing happens if it is locked."""
        if self._writer is not None and self._writer.lock.held:
            return
        directory = self.directory
        place = os.path.realpath(directory.path)
        for kit in self._kits():
            if kit is not self and os.path.realpath(kit.directory.path) == place:
                raise DirectoryError(
                    "two savekit callbacks of one fit have the same directory",
                    str(directory.path),
                    "give each its own directory, or put their plans into one policy",
                )
        prepare(directory, (plan.name for plan in self.policy.plans))
        self._writer = RunWriter.acquire(directory)
        try:
            self._begin_run(self._writer)
        except BaseException:
            self._release()
            raise

    def _begin_run(self, writer: RunWriter) -> None:
        """Write what the directory says about the run."""
        missing = missing_features(writer)
        if missing:
            lines = "".join(f"\n  {feature}" for feature in missing)
            warn(f"the file system of {writer.path} has no{lines}")
        if self._probe is not None:
            write_bytes_durably(writer.path / PROBE, self._probe)
        recovered = writer.recover_run_info()
        if recovered:
            writer.events.append("quarantined", name=RUN, findings=[recovered])
            warn(recovered)
        self._run = writer.write_run_info(self.policy.model_dump(mode="json")).run

    def _abandon(self, error: BaseException) -> None:
        """The `on_train_begin` of some callback has failed: `fit` does not begin."""
        session, self._session = self._session, None
        if session is not None:
            session.leave(error, in_step=False)
        self._release()

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    @property
    def writer(self) -> RunWriter:
        """The right to change the directory. For sessions, while `fit` runs."""
        if self._writer is None:
            raise DirectoryError(
                "this callback was used outside of fit", str(self.directory.path), "give it to fit"
            )
        return self._writer

    # For other savekit callbacks of the same `fit`.

    def get_state(self) -> dict[str, Any]:
        """Return what its triggers remember, for the checkpoints of other kits."""
        if self._session is not None:
            self._given = {"memory": self._session.memory()}
        return self._given

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take what its triggers remember from another kit's checkpoint."""
        self._given = dict(state)

    @property
    def session(self) -> Session | None:
        """The current session."""
        return self._session

    # Hooks.

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """An epoch begins."""
        self._running.epoch_begin(epoch)

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """A batch begins."""
        self._running.batch_begin(batch)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """A batch is done."""
        self._running.batch_end(logs or {})

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """A validation begins."""
        if self._session is not None:
            self._session.test_begin()

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """A batch of a validation is done."""
        if self._session is not None:
            self._session.test_batch_end()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """An epoch is over."""
        self._running.epoch_end(epoch, logs or {})

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Training is over."""
        session, self._session = self._running, None
        session.end()

    @property
    def _running(self) -> Session:
        if self._session is None:
            raise DirectoryError(
                "this callback was used outside of fit", str(self.directory.path), "give it to fit"
            )
        return self._session


class FullModelSaver(SaveKit):
    """`SaveKit` with one plan: the whole model.

    when: trigger or list of triggers, as short strings ("every 2 epochs") or values.
    keep: rule or list of rules ("last 3", "best 2 val_loss min", "all").
    verify: how deep each checkpoint is verified.
    data, probe: as in `SaveKit`.
    """

    _save: Literal["model", "weights"] = "model"

    def __init__(
        self,
        directory: str | os.PathLike[str],
        when: Any,
        keep: Any = "all",
        *,
        verify: Literal["bytes", "structure", "load", "predict"] = "structure",
        data: Any = None,
        probe: Any = None,
    ) -> None:
        plan = {"name": self._save, "save": self._save, "when": when, "keep": keep}
        policy = policy_from({"plans": [{**plan, "verify": verify}]}, source=type(self).__name__)
        super().__init__(policy, directory=directory, data=data, probe=probe)


class WeightsSaver(FullModelSaver):
    """`SaveKit` with one plan: separate weights, with the architecture beside them."""

    _save: Literal["model", "weights"] = "weights"


def _policy(given: str | os.PathLike[str] | Policy | Mapping[str, Any]) -> Policy:
    if isinstance(given, Policy):
        return given
    if isinstance(given, Mapping):
        return policy_from(dict(given), source="the policy")
    return load_policy(Path(given))


def _require_possible(path: Path) -> None:
    """Raise DirectoryError if something that is no directory is in the way of `path`."""
    for place in (path, *path.parents):
        if os.path.lexists(place):
            if not place.is_dir():
                raise DirectoryError(
                    f"cannot be made: {place.name} is not a directory",
                    str(path),
                    "choose another directory",
                )
            return
