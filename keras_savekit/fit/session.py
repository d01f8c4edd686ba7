"""One run of `fit`: the one place that knows the order of things.

    observe -> decide -> capture -> write -> publish -> verify -> prune

What is here happens on the thread that trains: keeping count of where training
stands, asking the policy, taking a snapshot, and restoring one when training
begins. The rest is `pipeline`. What fails there is told at the next hook here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keras_savekit.backend import random_state
from keras_savekit.base.logs import Logs, Validation, why_absent
from keras_savekit.base.moment import AT_ONCE, Event, Moment, Tick
from keras_savekit.errors import SaveError, SavekitWarning, shown
from keras_savekit.files import portability_warnings
from keras_savekit.fit import callback_state
from keras_savekit.fit.begin import ResumePlan, begin
from keras_savekit.fit.callback_state import CallbackStates
from keras_savekit.fit.context import SessionContext, steady
from keras_savekit.fit.requests import OverheadMeter, RequestMonitor
from keras_savekit.fit.restoration import Restoration
from keras_savekit.fit.steering import (
    Fit,
    end_epoch,
    end_validation,
    interrupt,
    interrupted,
    next_epoch,
    stopped,
)
from keras_savekit.formats.log_values import encode_logs, readable_logs
from keras_savekit.formats.registry import FORMATS
from keras_savekit.model.capture import Capture
from keras_savekit.model.structure import Configuration, LiveModel, build_optimizer, described
from keras_savekit.policy.plan import Decision, decide, horizon, saves_periodically
from keras_savekit.save.pipeline import Pipeline
from keras_savekit.store.run import RunDirectory

_SHOWN = 5  # names in a warning


class Session:
    """From `on_train_begin` to the end of `fit`, however it ends.

    Raises, before anything is trained or changed: ModelError, MismatchError,
    ResumeError, DirectoryError.
    """

    def __init__(self, around: SessionContext, model: Any, params: Mapping[str, Any]) -> None:
        self._around = around
        self._model = model
        self._fit = Fit(model, around.callback)
        self._flows = self._fit.flows()
        self._epochs = int(params.get("epochs") or 0)
        self._length: int | None = params.get("steps")
        if around.source is not None and not self._flows:
            self._length = self._length or around.source.steps_per_epoch
        self._length_known_to_keras = params.get("steps") is not None
        self._per_call: int = model.steps_per_execution
        self._configuration = Configuration.of(model)
        self._optimizer = self._configuration.optimizer  # as the user's code set it up
        self._capture: Capture | None = None
        self._memory: Mapping[str, float] = {}
        self._history: list[tuple[int, dict[str, Any]]] = []  # see `log_values.encode_logs`
        self._came: set[str] = set()  # the metrics that epochs reported
        self._noted: set[str] = set()  # the metrics of which something was reported
        self._unread: Mapping[str, Any] | None = None  # the newest logs, where nobody looked yet
        self._restoration: Restoration | None = None
        self._now = self._seen = Moment()
        self._horizon = AT_ONCE
        self._offset = self._begun = 0
        self._first_epoch = True
        self._training_metrics: Mapping[int, Any] | None = None
        self._updates_before = 0
        self._owed = False  # whether a step is done that we have not been told of
        self._cut_short = self._validated = self._stretch_told = False
        self._over = False
        self._at_cut: CallbackStates | None = None
        callback_state.require_none_in_the_way(self._fit.others())
        callback_state.remember(self._fit.others())  # proves that it can be saved
        build_optimizer(model)
        around.directory.sweep()
        _warn(_left_alone(around.directory))
        _warn(self._fit.callbacks_after())
        if around.source is not None:
            replicas = model.distribute_strategy.num_replicas_in_sync
            around.source.require_usable(flowing=self._flows, replicas=replicas)
        self.beginning = self._begin()
        self._since = around.clock() - self._now.seconds
        now = steady(around.wall, around.clock)
        self._pipeline = Pipeline(around.directory, around.policy, around.run, now)
        if saves_periodically(around.policy):
            self._pipeline.expect(described(model))
        self._costs = OverheadMeter(around.policy.limits.overhead, around.clock)
        self._watch = RequestMonitor(
            around.policy, around.directory.path, around.wall, around.clock
        )
        self._tell_watched()
        self._fit.watch(self._leave, self._stepped)

    def _begin(self) -> ResumePlan | None:
        """Begin anew, or where a checkpoint stands; together with other kits of this `fit`."""
        around, fit, kit = self._around, self._fit, self._around.callback
        others = [each.session for each in around.kits if each.session is not None]
        leader = next((each for each in others if each.within(fit)), None)
        self._leads = leader is None
        found: ResumePlan | None
        if leader is not None:
            found = leader.beginning
        else:
            found = begin(around, fit, self._model, self._optimizer, self._length, self._epochs)
        if found is None:
            return None
        self._now = self._seen = found.restored.moment
        own = found.state if kit is found.owner else kit.get_state()
        self._memory = own["memory"]
        self._history = [(epoch, logs) for epoch, logs in found.state["history"]]
        self._came = {name for _, logs in self._history for name in logs}
        self._length = self._length or found.state["length"]
        self._optimizer = found.optimizer
        self._restoration = found.restoration
        if self._leads:
            found.go_on(fit, self._epochs, around.tell)
        found.record(kit)
        return found

    def within(self, fit: Fit) -> bool:
        """Whether this session is one of `fit`, and not over."""
        return not self._over and self._fit.same(fit)

    # Hooks.

    def epoch_begin(self, epoch: int) -> None:
        """An epoch, counted from 0, is about to begin."""
        next_epoch(self._model)
        self._validated = False
        self._offset = self._now.batch if epoch == self._now.epoch else 0
        self._begin_data(epoch)
        if self._first_epoch:
            self._fit.restore_history(self._history)
            if self._restoration is not None:
                self._restoration.epoch_begins()
            if self._offset and self._offset == self._length:
                if self._leads:
                    self._fit.train_nothing()
            else:
                self._restoration = None
        begins, self._first_epoch = self._first_epoch, False
        self._updates_before = 0
        if epoch != self._now.epoch:
            self._now = Moment(epoch, 0, self._now.step, self._seconds(), self._now.logs)
        self._updates_before = self._updates() - self._now.step
        if begins:
            self._observe("train_begin", self._now)

    def _updates(self) -> int:
        """Steps done, by the optimizer's count."""
        optimizer = self._model.optimizer
        counted = 0 if optimizer is None else int(optimizer.iterations.numpy())
        return counted - self._updates_before

    def _begin_data(self, epoch: int) -> None:
        source = self._around.source
        if source is None:
            return
        if not self._flows:
            source.start(epoch, self._offset)
        elif self._first_epoch and source.steps_per_epoch:
            # One pass after another, whatever `fit` calls an epoch.
            source.start(*divmod(self._now.step, source.steps_per_epoch))

    def batch_begin(self, batch: int) -> None:
        """A call of the train function begins with this batch, counted by Keras."""
        self._begun = batch
        self._training_metrics = None

    def batch_end(self, logs: Mapping[str, Any]) -> None:
        """The batches of one call of the train function are done."""
        self._owed = False
        if self._restoration is not None:
            # No batch was trained: all of this epoch were done before.
            self._restoration.epoch_begins()
            self._restoration = None
            end_epoch(self._model)
            return
        self._now, self._unread = self._after_call(), logs
        if self._now.batch != self._length:
            if stopped(self._model):
                self._cut()
            if not self._quiet():
                self._observe("step", self._read_logs())
        elif self._offset or not self._length_known_to_keras:
            # Else the epoch's end, with all its logs, is at once the end of this batch.
            end_epoch(self._model)

    def _after_call(self) -> Moment:
        """Where training stands when the call of the train function under way is done."""
        now = self._now
        done = self._offset + self._begun + self._per_call
        if self._length is not None:
            done = min(done, self._length)
        return Moment(now.epoch, done, now.step + done - now.batch, self._seconds(), now.logs)

    def _stepped(self) -> None:
        """The train function has returned; other callbacks hear of it before us."""
        self._owed = True

    def test_begin(self) -> None:
        """A validation begins. It resets the metrics; this keeps those of the training."""
        self._validated = True
        if not self._cut_short:
            self._length = self._length or self._now.batch
        self._prepare(self._now)
        if self._capture is not None:
            self._training_metrics = self._capture.metrics()

    def test_batch_end(self) -> None:
        """A batch of a validation is done: what is asked for from outside need not wait."""
        if not self._cut_short:
            self._observe("validation", self._read_logs())
        if interrupted(self._model):
            end_validation(self._model)

    def epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """An epoch, validation included, is over."""
        next_epoch(self._model)
        if self._cut_short:
            return  # somebody stopped the training in the middle of an epoch: it has not ended
        if self._length is None:
            self._length = self._now.batch
        self._now = Moment(epoch + 1, 0, self._now.step, self._seconds())
        self._unread = logs
        self._history.append((epoch, encode_logs(logs)))
        self._observe("epoch_end", self._read_logs())
        self._came.update(self._now.logs)
        self._report_absent("done" if self._validated else self._may_validate())

    def end(self) -> None:
        """`fit` is about to return: save what is due, finish everything, tell what failed.

        Raises SystemExit where a signal was to end the process.
        """
        self._fit.restore_history(self._history)
        self._observe("train_end", self._read_logs())
        if self._history and not self._cut_short:
            self._report_absent("done")  # there is no later validation to wait for
        if self._around.policy.on_failure == "resave" and self._capture is not None:
            self._pipeline.join(self._tell_left)  # there is no next step to save again at
            again = Decision(tuple(self._pipeline.retries()), self._memory)
            if again.due:
                self._save(again, self._capture, self._now, consistent=True, ended=True)
        self._finish(stop=True)
        if self._watch.exit_status is not None:
            raise SystemExit(self._watch.exit_status)

    def _leave(self, error: BaseException, in_step: bool) -> None:
        """An exception is about to leave `fit`."""
        if self._over:
            return  # it is ours: the process ends
        # What failed beside it is only told: the exception goes on unchanged.
        consistent = not in_step
        if in_step and not isinstance(error, Exception) and not self._model.run_eagerly:
            # Ctrl-C: Python heeds it between two steps, though it looks as if within one.
            consistent = True
            self._owed = self._updates() == self._after_call().step
        if self._owed:
            self._now = self._after_call()
        elif self._capture is None:  # nothing was trained
            self._finish(stop=False)
            return
        try:
            self._observe("exception", self._read_logs(), consistent=consistent)
        finally:
            self._around.directory.events.append(
                "interrupted", why=type(error).__name__, step=self._now.step
            )
            self._finish(stop=False)

    def memory(self) -> dict[str, float]:
        """What the triggers remember."""
        return dict(self._memory)

    # Observing.

    def _quiet(self) -> bool:
        """Whether nothing can be due, to be learned, to be told or to be made ready for."""
        if self._capture is None:
            return False
        ahead = self._horizon.is_ahead_of(self._now) and not self._costs.limited
        return ahead and self._watch.quiet() and self._pipeline.quiet()

    def _observe(self, event: Event, now: Moment, *, consistent: bool = True) -> None:
        self._prepare(now)
        outside = self._watch.look()
        before = now if event == "validation" else self._seen
        tick = Tick(before, now, event, self._memory, outside, self._costs.stretch)
        decision = self._with_retries(decide(self._around.policy, tick))
        capture = self._capture
        if event == "train_begin" and decision.due:
            capture = Capture(LiveModel(self._model, self._configuration))
        if decision.due and capture is None:
            return  # nothing was trained; what was asked for from outside waits
        self._memory = decision.memory
        if event != "validation":  # what is due at this step is due at the epoch's end
            self._seen = now
            self._horizon = horizon(self._around.policy, now, self._costs.stretch)
        if decision.due and capture is not None:
            ended = event == "train_end"
            self._save(decision, capture, now, consistent=consistent, ended=ended)
            if self._watch.serve(decision.due, tick):
                self._stop(event)
            self._tell_watched()
        if self._costs.judge(self._pipeline.computed()):
            self._tell_stretch()
        if event in ("step", "validation", "epoch_end"):  # else told when all is finished
            self._tell_problems(stop=True)

    def _with_retries(self, decision: Decision) -> Decision:
        again = self._pipeline.retries()
        if not again:
            return decision
        planned = {each.plan for each in decision.due}
        unplanned = (each for each in again if each.plan not in planned)
        return replace(decision, due=(*decision.due, *unplanned))

    def _prepare(self, now: Moment) -> None:
        """Get ready to take snapshots, once everything has its variables."""
        if self._capture is not None or now.step == self._seen.step:
            return  # metrics get theirs in the first step
        live = LiveModel(self._model, self._configuration)
        formats = [FORMATS[plan.format] for plan in self._around.policy.plans]
        for text in portability_warnings(live.blueprint, formats):
            _warn(text)
        self._capture = Capture(live)

    def _save(
        self, decision: Decision, capture: Capture, now: Moment, *, consistent: bool, ended: bool
    ) -> None:
        began = self._around.clock()
        remembered = self._at_cut or callback_state.remember(self._fit.others())
        state = self._state(now, consistent)
        state |= {"callbacks": remembered.states, "ended": ended}
        snapshot = capture(now, state, remembered.arrays, self._training_metrics)
        for due in decision.due:
            # At the end callbacks change weights: the best are put back, averages put in.
            self._pipeline.save(snapshot, due, self._watch.grace_deadline, may_differ=ended)
        stall = self._around.clock() - began
        self._costs.stalled(stall)
        self._pipeline.note("captured", step=now.step, stall=round(stall, 6))

    def _stop(self, event: Event) -> None:
        """Have `fit` end as if a callback had stopped it; the state that was saved goes on."""
        if event in ("train_end", "exception"):
            return
        interrupt(self._model)
        if event in ("step", "validation"):
            self._cut()
        self._around.tell(f"training stops after step {self._now.step}, as the policy says")

    def _cut(self) -> None:
        """This epoch does not end: what callbacks make of its end is not to be gone on with."""
        self._cut_short = True
        self._at_cut = callback_state.remember(self._fit.others())

    def _tell_watched(self) -> None:
        while self._watch.problems:
            self._around.tell(self._watch.problems.pop(0))

    def _tell_stretch(self) -> None:
        stretch = self._costs.stretch
        self._around.directory.events.append("stretched", times=stretch, step=self._now.step)
        if not self._stretch_told:
            self._stretch_told = True
            self._around.tell(
                f"saving takes more than limits.overhead allows: intervals are {stretch} times"
                " longer for now; events.jsonl has every change"
            )

    def _state(self, now: Moment, consistent: bool) -> dict[str, Any]:
        source = self._around.source
        return {
            "epoch": now.epoch,
            "batch": now.batch,
            "step": now.step,
            "seconds": now.seconds,
            "memory": dict(self._memory),
            "history": list(self._history),  # it is written later, when more epochs have ended
            "data": source.identity if source is not None else None,
            "consistent": consistent,
            "randomness": random_state.state(),
            "epochs": self._epochs,
            "length": self._length,
            "stopped": stopped(self._model) and not interrupted(self._model),
            "optimizer": self._optimizer,
        }

    def _seconds(self) -> float:
        return self._around.clock() - self._since

    def _read_logs(self) -> Moment:
        """Where training stands, with its newest logs as values of our own.

        Most batches are over without anyone who looks at their logs: those are not read.
        """
        if self._unread is not None:
            logs, self._unread = self._unread, None
            self._now = replace(self._now, logs=self._ours(logs))
        return self._now

    def _ours(self, logs: Mapping[str, Any]) -> Logs:
        found = readable_logs(logs)
        for name, note in found.notes.items():
            self._note(f"value {name}", note)
        return found.logs

    def _may_validate(self) -> Validation:
        return "later" if self._fit.validates() else "none"

    def _report_absent(self, validation: Validation) -> None:
        """Report, once each, the metrics of the policy that this epoch did not have."""
        for name in sorted(self._around.policy.metrics()):
            self._note(
                f"metric {name}",
                why_absent(self._now.logs, name, came=self._came, validation=validation),
            )

    def _note(self, about: str, text: str) -> None:
        if text and about not in self._noted:
            self._noted.add(about)
            _warn(text)

    def _tell_problems(self, *, stop: bool) -> None:
        problems = self._pipeline.problems()
        if problems and stop and self._around.policy.on_failure == "raise":
            first, *others = problems
            also = [f"also: {other.what}" for other in others]
            remedy = "\n  ".join([first.remedy, *also])
            raise SaveError(first.what, first.where, remedy) from first.__cause__
        for text in (*self._pipeline.notices(), *map(str, problems)):
            warnings.warn(text, SavekitWarning, stacklevel=2)

    def _finish(self, *, stop: bool) -> None:
        around = self._around
        done = True
        try:
            pending = self._pipeline.pending()
            if pending:
                around.tell(f"finishing {pending} checkpoint{'s' if pending > 1 else ''}")
            done = self._pipeline.close(self._watch.grace_deadline, self._tell_left)
            if not done:
                around.tell("not finished within the grace period; the newest checkpoint stands")
        finally:
            self._over = True
            self._watch.release()
            self._fit.release()
            if done:  # else this process still writes
                around.directory.lock.release()
        self._tell_problems(stop=stop)

    def _tell_left(self, count: int) -> None:
        if count:
            self._around.tell(f"{count} checkpoint{'s' if count > 1 else ''} left to verify")


def _left_alone(directory: RunDirectory) -> str:
    """Which entries among the checkpoints are the user's."""
    names = directory.foreign()
    if not names:
        return ""
    listed = ", ".join(names[:_SHOWN]) + (
        f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)
    )
    return shown(f"not checkpoints, and left alone in {directory.checkpoints_path}: {listed}")


def _warn(message: str) -> None:
    if message:
        warnings.warn(message, SavekitWarning, stacklevel=2)
