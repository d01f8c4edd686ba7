"""The callbacks: Keras's hooks in, the session's methods out; nothing else."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import keras

from keras_savekit.data.source import source_of
from keras_savekit.errors import DirectoryError, SavekitWarning
from keras_savekit.fit.callback_state import open_for_appending
from keras_savekit.fit.context import SessionContext
from keras_savekit.fit.session import Session
from keras_savekit.fit.steering import callbacks_of_fit
from keras_savekit.policy.plan import Policy
from keras_savekit.policy.yaml.load import load_policy, policy_from
from keras_savekit.resume.report import Restored
from keras_savekit.store.atomic import write_bytes_durably
from keras_savekit.store.prepare import missing_features, prepare
from keras_savekit.store.run import RunDirectory
from keras_savekit.store.run_info import RUN
from keras_savekit.store.run_writer import RunWriter
from keras_savekit.verify.loader.probe import PROBE, to_bytes

_open: weakref.WeakValueDictionary[Path, SaveKit] = weakref.WeakValueDictionary()


class SaveKit(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves, verifies, keeps and resumes, as a policy says. The last callback of the list.

    policy: path of a YAML file, a `Policy`, or a dict of the same shape.
    directory: of this run; goes before what the policy says.
    data: what `keras_savekit.resumable` returned and `fit` trains on. With it a
        training resumes in mid-epoch, without it at an epoch's start.
    probe: a batch that `verify: predict` asks the model with: what it is called
        with, an array or a list or a dict of arrays. It is kept in the directory.
        Without it a batch is drawn that fits the model's inputs.

    Raises PolicyError, SavekitError (there is no key to sign with), DirectoryError
    (cannot be written, or another process uses it) or DataError at once; ModelError,
    MismatchError and ResumeError when `fit` begins, before the first step. Nothing was
    then changed.

    A save that fails is told by a SavekitWarning at the next hook, or under
    `on_failure: raise` by a SaveError at the next step; the checkpoints before
    it still stand.

    resumed: after `fit` has begun, a `Restored` that says from what it went on
        and how exactly; None if it started from the beginning.
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
        chosen = directory or self.policy.directory
        if chosen is None:
            raise DirectoryError(
                "no directory to save into", "", "give directory=, or `directory:` in the policy"
            )
        self._source = source_of(data) if data is not None else None
        self._probe = to_bytes(probe) if probe is not None else None
        signing = self.policy.signing
        key = None if signing is None else signing.secret(os.environ)
        self.directory = RunDirectory(Path(chosen).absolute(), key)
        self._writer: RunWriter | None = None
        self._starting = False  # whether a session is being made
        self._session: Session | None = None
        self._given: dict[str, Any] = {"memory": {}}
        self.resumed: Restored | None = None
        self._claim()

    def _claim(self) -> RunWriter:
        """Make the directory, and make it ours until training ends."""
        if self._writer is not None and self._writer.lock.held:
            return self._writer
        prepare(self.directory, (plan.name for plan in self.policy.plans))
        previous = _open.get(self.directory.path)
        if previous is not None and previous._writer is not None and not previous._in_use:
            previous._writer.release()  # made in this process, and not training
        writer = self._writer = RunWriter.acquire(self.directory)
        _open[self.directory.path] = self
        missing = missing_features(writer)
        if missing:
            lines = "".join(f"\n  {feature}" for feature in missing)
            what = f"the file system of {self.directory.path} has no{lines}"
            warnings.warn(what, SavekitWarning, stacklevel=3)
        if self._probe is not None:
            write_bytes_durably(self.directory.path / PROBE, self._probe)
        recovered = writer.recover_run_info()
        if recovered:
            self.directory.events.append("quarantined", name=RUN, findings=[recovered])
            warnings.warn(recovered, SavekitWarning, stacklevel=3)
        self._run = writer.write_run_info(self.policy.model_dump(mode="json")).run
        return writer

    @property
    def _in_use(self) -> bool:
        return self._starting or self._session is not None

    @property
    def writer(self) -> RunWriter:
        """The right to write into the directory; acquired first if it is not held."""
        return self._claim()

    def set_model(self, model: Any) -> None:
        """Keras shows the model before any callback's `on_train_begin`."""
        super().set_model(model)
        if self.policy.resume.mode != "never" and self.directory.exists:
            open_for_appending(callbacks_of_fit())

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Resume, or start from the beginning."""
        self._claim()
        kits = tuple(each for each in callbacks_of_fit() if isinstance(each, SaveKit)) or (self,)
        around = SessionContext(self, kits, self._run, self._source, print)
        self._session = None
        self._starting = True
        try:
            self._session = Session(around, self.model, self.params)
        finally:
            self._starting = False
        beginning = self._session.beginning
        self.resumed = None if beginning is None else beginning.restored

    def get_state(self) -> dict[str, Any]:
        """What its triggers remember, for the checkpoints of other kits in the same `fit`."""
        if self._session is not None:
            self._given = {"memory": self._session.memory()}
        return self._given

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Before its own `on_train_begin`, where another kit's checkpoint is gone on from."""
        self._given = dict(state)

    @property
    def session(self) -> Session | None:
        """The session under way."""
        return self._session

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
    data, probe: as `SaveKit` has them.
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
