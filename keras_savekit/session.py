"""One run of `fit`: the one place that knows the order of things.

    observe -> decide -> capture -> write -> publish -> verify -> prune

What is here happens on the thread that trains: keeping count of where training
stands, asking the policy, taking a snapshot, and restoring one when training
begins. The rest is `pipeline`. What fails there is told at the next hook here.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_savekit import resume
from keras_savekit.errors import (
    DirectoryError,
    MetricError,
    MismatchError,
    ResumeError,
    SaveError,
    SavekitWarning,
)
from keras_savekit.pipeline import Pipeline
from keras_savekit.policy.moment import Event, Moment, Tick
from keras_savekit.policy.plan import Policy, decide
from keras_savekit.resume import Found, Resumed
from keras_savekit.store.directory import RunDirectory
from keras_savekit.store.manifest import Manifest, Role
from keras_savekit.training import metrics
from keras_savekit.training.blueprint import Configuration, LiveModel, build_optimizer
from keras_savekit.training.capture import Capture
from keras_savekit.training.data import Source
from keras_savekit.training.fit import Fit, end_epoch, next_epoch
from keras_savekit.training.restore import Tensors, assign, require_same

RESTORED: tuple[Role, ...] = ("weight", "optimizer", "seed")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session is given.

    callback: the one that Keras knows.
    source: the data's position, where it has one.
    tell: shows a text to the user.
    """

    policy: Policy
    directory: RunDirectory
    run: str
    callback: Any
    source: Source | None
    data: Any
    tell: Callable[[str], None]
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic


class Session:
    """From `on_train_begin` to the end of `fit`, however it ends.

    Raises, before anything is trained or changed: ModelError, MismatchError,
    ResumeError, DirectoryError.
    """

    def __init__(self, around: Surroundings, model: Any, params: Mapping[str, Any]) -> None:
        self._around = around
        self._model = model
        self._length: int | None = params.get("steps")
        if around.source is not None:
            self._length = self._length or around.source.steps_per_epoch
        self._length_known_to_keras = params.get("steps") is not None
        self._per_call: int = model.steps_per_execution
        self._configuration = Configuration.of(model)
        self._capture: Capture | None = None
        self._memory: Mapping[str, float] = {}
        self._history: list[tuple[int, dict[str, float]]] = []
        self._metrics: Tensors | None = None
        self._now = self._seen = Moment()
        self._offset = self._begun = 0
        self._validated = self._metrics_checked = False
        self.resumed: Resumed | None = None
        build_optimizer(model)
        around.directory.sweep()
        self._fit = Fit(model, around.callback)
        self._warn_of_callbacks_after()
        self._resume(int(params.get("epochs") or 0))
        self._since = around.clock() - self._now.seconds
        self._pipeline = Pipeline(around.directory, around.policy, around.run, around.wall)
        self._fit.watch(self._leave)

    def _warn_of_callbacks_after(self) -> None:
        after = [type(each).__name__ for each in self._fit.after()]
        if after:
            message = (
                f"{', '.join(after)} comes after the savekit callback in `callbacks=[...]`, and "
                "changes what was already saved; put it last"
            )
            warnings.warn(message, SavekitWarning, stacklevel=2)

    def _resume(self, epochs: int) -> None:
        """Find a checkpoint, put it into the model, and go on from there."""
        around = self._around
        if around.policy.resume == "never":
            _require_empty(around.directory)
            return
        found, passed = resume.find(around.directory, around.wall())
        if found is None:
            if around.policy.resume == "required":
                raise ResumeError(
                    "there is no checkpoint to resume from" + "".join(f"\n  {p}" for p in passed),
                    str(around.directory.path),
                    "write `resume: auto` to start from the beginning instead",
                )
            for each in passed:
                around.tell(f"passed over {each}")
            return
        manifest = found.checkpoint.manifest
        require_same(self._model, manifest, RESTORED, str(found.checkpoint.path))
        moment, level, reasons = resume.position(found, around.source, self._fit.others())
        if moment.batch and not self._restore_metrics(found, manifest):
            reasons += ("its metrics are others; the logs of this epoch begin anew",)
            level = "position"
        assign(self._model, found.tensors, RESTORED)
        self._now = self._seen = moment
        self._memory = found.state["memory"]
        self._history = [(epoch, logs) for epoch, logs in found.state["history"]]
        self._fit.start_at(moment.epoch)
        self.resumed = Resumed(found.checkpoint.name, moment, level, reasons, passed)
        around.directory.events.append(
            "resumed",
            name=self.resumed.name,
            level=level,
            reasons=reasons,
            epoch=moment.epoch,
            batch=moment.batch,
            step=moment.step,
            passed_over=passed,
        )
        around.tell(str(self.resumed))
        if moment.epoch >= epochs:
            around.tell(f"nothing left to do: {moment.epoch} of {epochs} epochs are trained")

    def _restore_metrics(self, found: Found, manifest: Manifest) -> bool:
        """Keep the metrics of an epoch begun, for `epoch_begin` to put back."""
        metrics.build(self._model, self._around.data)
        try:
            require_same(self._model, manifest, ("metric",), found.checkpoint.name)
        except MismatchError:
            return False
        self._metrics = found.tensors
        return True

    # Hooks.

    def epoch_begin(self, epoch: int) -> None:
        """An epoch, counted from 0, is about to begin."""
        next_epoch(self._model)
        self._offset = self._now.batch if epoch == self._now.epoch else 0
        if self._around.source is not None:
            self._around.source.start(epoch, self._offset)
        if self._metrics is not None:
            # After `fit` reset them for this epoch.
            assign(self._model, self._metrics, ("metric",))
            self._metrics = None
        if epoch != self._now.epoch:
            self._now = Moment(epoch, 0, self._now.step, self._seconds(), self._now.logs)

    def batch_begin(self, batch: int) -> None:
        """A call of the train function begins with this batch, counted by Keras."""
        self._begun = batch

    def batch_end(self, logs: Mapping[str, float]) -> None:
        """The batches of one call of the train function are done."""
        now = self._now
        done = self._offset + self._begun + self._per_call
        if self._length is not None:
            done = min(done, self._length)
        step = now.step + done - now.batch
        self._now = Moment(now.epoch, done, step, self._seconds(), logs)
        if done != self._length:
            self._observe("step", self._now)
        elif self._offset or not self._length_known_to_keras:
            # Else the epoch's end, with all its logs, is at once the end of this batch.
            end_epoch(self._model)

    def test_begin(self) -> None:
        """A validation begins."""
        self._validated = True

    def epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """An epoch, validation included, is over."""
        next_epoch(self._model)
        self._now = Moment(epoch + 1, 0, self._now.step, self._seconds(), logs)
        self._history.append((epoch, dict(logs)))
        self._observe("epoch_end", self._now)
        self._require_metrics(logs)

    def end(self) -> None:
        """`fit` is about to return: save what is due, finish everything, tell what failed."""
        self._observe("train_end", self._now)
        self._finish(stop=True)

    def _leave(self, error: BaseException, in_step: bool) -> None:
        """An exception is about to leave `fit`."""
        # What failed beside it is only told: the exception goes on unchanged.
        if self._capture is None:  # nothing was trained
            self._finish(stop=False)
            return
        try:
            self._observe("exception", self._now, consistent=not in_step)
        finally:
            self._around.directory.events.append(
                "interrupted", why=type(error).__name__, step=self._now.step
            )
            self._finish(stop=False)

    # Observing.

    def _observe(self, event: Event, now: Moment, *, consistent: bool = True) -> None:
        if self._capture is None and now.step > self._seen.step:
            # Now everything has its variables: metrics get theirs in the first step.
            self._capture = Capture(LiveModel(self._model, self._configuration))
        decision = decide(self._around.policy, Tick(self._seen, now, event, self._memory))
        self._memory = decision.memory
        self._seen = now
        if decision.due and self._capture is not None:
            began = self._around.clock()
            snapshot = self._capture(now, self._state(now, consistent))
            for due in decision.due:
                self._pipeline.save(snapshot, due)
            self._around.directory.events.append(
                "captured", step=now.step, stall=round(self._around.clock() - began, 6)
            )
        if event in ("step", "epoch_end"):  # after the others everything is finished, then told
            self._tell_problems(stop=True)

    def _state(self, now: Moment, consistent: bool) -> dict[str, Any]:
        source = self._around.source
        return {
            "epoch": now.epoch,
            "batch": now.batch,
            "step": now.step,
            "seconds": now.seconds,
            "memory": dict(self._memory),
            "history": self._history,
            "data": source.identity if source is not None else None,
            "consistent": consistent,
        }

    def _seconds(self) -> float:
        return self._around.clock() - self._since

    def _require_metrics(self, logs: Mapping[str, float]) -> None:
        """Once, when every metric that `fit` reports has been seen."""
        if self._metrics_checked:
            return
        missing = sorted(self._around.policy.metrics() - set(logs))
        waits = any(name.startswith("val_") for name in missing) and not self._validated
        if waits and self._now.epoch < 2:
            return  # validation_freq may put it off
        self._metrics_checked = True
        if missing:
            raise MetricError(
                f"the policy waits for {', '.join(missing)}, which fit does not report",
                "",
                f"it reports {', '.join(sorted(logs))}"
                + ("" if self._validated else "; metrics with val_ need validation_data"),
            )

    def _tell_problems(self, *, stop: bool) -> None:
        problems = self._pipeline.problems()
        if problems and stop and self._around.policy.on_failure == "raise":
            first, *others = problems
            also = [f"also: {other.what}" for other in others]
            remedy = "\n  ".join([first.remedy, *also])
            raise SaveError(first.what, first.where, remedy) from first.__cause__
        for problem in problems:
            warnings.warn(str(problem), SavekitWarning, stacklevel=2)

    def _finish(self, *, stop: bool) -> None:
        try:
            pending = self._pipeline.pending()
            if pending:
                self._around.tell(f"finishing {pending} checkpoint{'s' if pending > 1 else ''}")
            self._pipeline.close()
        finally:
            self._fit.release()
            self._around.directory.lock.release()
        self._tell_problems(stop=stop)


def _require_empty(directory: RunDirectory) -> None:
    if any(directory.checkpoints_path.iterdir()):
        raise DirectoryError(
            "holds the checkpoints of an earlier run, and the policy says `resume: never`",
            str(directory.path),
            "choose another directory, or write `resume: auto`; nothing was changed",
        )
