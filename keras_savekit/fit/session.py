"""One run of `fit`: the order in which things happen.

    observe -> decide -> capture -> write -> publish -> verify -> prune

This runs on the thread that trains. It keeps the position (`progress`), has the
policy asked (`observer`), and restores a checkpoint when training begins. Writing
and everything after it is `save.pipeline`; what fails there is reported here, at the
next hook.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keras_savekit.base.logs import Validation
from keras_savekit.base.moment import Event, Moment
from keras_savekit.fit import callback_state
from keras_savekit.fit.begin import ResumePlan, begin, leader_of
from keras_savekit.fit.context import SessionContext, steady
from keras_savekit.fit.log_reader import LogReader
from keras_savekit.fit.observer import Observer, Subject
from keras_savekit.fit.progress import Progress
from keras_savekit.fit.reporting import combined, count_of, foreign_entries
from keras_savekit.fit.restoration import Restoration
from keras_savekit.fit.steering import (
    Fit,
    end_epoch,
    end_validation,
    interrupt,
    is_interrupted,
    is_stopped,
    next_epoch,
)
from keras_savekit.fit.training_state import Settings, TrainingState
from keras_savekit.model.compile_settings import CompileSettings
from keras_savekit.model.live_variables import build_optimizer, describe_variables
from keras_savekit.policy.plan import saves_periodically
from keras_savekit.save.pipeline import Pipeline


class Session:
    """From `on_train_begin` to the end of `fit`, however it ends.

    resume_plan: where the training resumes; None if it starts from scratch.

    Raises, before anything is trained or changed: ModelError, MismatchError,
    ResumeError, DirectoryError, DataError.
    """

    def __init__(self, context: SessionContext, model: Any, params: Mapping[str, Any]) -> None:
        policy, directory = context.policy, context.directory
        self._context = context
        self._report = context.report
        self._model = model
        self._fit = fit = Fit(model, context.kit)
        configuration = CompileSettings.of(model)
        self._settings = Settings(
            int(params.get("epochs") or 0), context.source, configuration.optimizer
        )
        self._progress = self._start_of(params)
        self._begun = 0  # the first batch of the call under way, as Keras counts it
        self._owed = False  # whether the train function has returned and no hook reported it
        self._logs = LogReader(policy.metrics(), context.report)
        self._memory: Mapping[str, float] = {}  # of the triggers, when the session begins
        self._restoration: Restoration | None = None
        self._over = False
        callback_state.require_no_other_resume(fit.other_callbacks())
        callback_state.collect(fit.other_callbacks())  # raises if one cannot be saved
        build_optimizer(model)
        context.writer.sweep()
        self._report.warn(foreign_entries(directory.foreign(), directory.checkpoints_path))
        self._report.warn(fit.order_problem())
        if context.source is not None:
            replicas = model.distribute_strategy.num_replicas_in_sync
            context.source.require_usable(flowing=fit.flows(), replicas=replicas)
        self._leads = True
        self.resume_plan = self._begin()
        self._since = context.clock() - self._progress.now.seconds
        now = steady(context.wall, context.clock)
        self._pipeline = Pipeline(context.writer, policy, context.run, now)
        if saves_periodically(policy):
            self._pipeline.preallocate(describe_variables(model))
        subject = Subject(model, fit, configuration)
        self._observer = Observer(
            context, subject, self._pipeline, self._progress.now, self._memory
        )
        fit.watch(self.leave, self._step_returned)

    def _start_of(self, params: Mapping[str, Any]) -> Progress:
        length, source = params.get("steps"), self._context.source
        known = length is not None
        if source is not None and not self._fit.flows():
            length = length or source.steps_per_epoch
        return Progress(Moment(), length, known, self._model.steps_per_execution)

    def _begin(self) -> ResumePlan | None:
        """Start from scratch or from a checkpoint, together with other kits of this `fit`."""
        context, fit, settings = self._context, self._fit, self._settings
        leader = leader_of(context, fit)
        self._leads = leader is None
        if leader is not None:
            plan = leader.resume_plan
        else:
            length = self._progress.length
            plan = begin(context, fit, self._model, settings.optimizer, length, settings.epochs)
        if plan is None:
            return None
        own = plan.state if context.kit is plan.owner else context.kit.get_state()
        self._memory = own["memory"]
        self._progress = self._progress.resume(plan.restored.moment, plan.state["length"])
        self._logs.resume(plan.state["history"])
        self._settings = replace(settings, optimizer=plan.optimizer)
        self._restoration = plan.restoration
        if self._leads:
            plan.apply(fit, settings.epochs, self._report)
        plan.record(context.kit)
        return plan

    def within(self, fit: Fit) -> bool:
        """Return whether this session is one of `fit`, and not over."""
        return not self._over and self._fit.is_same(fit)

    def memory(self) -> dict[str, float]:
        """Return what the triggers remember."""
        return dict(self._observer.memory)

    # Hooks.

    def epoch_begin(self, epoch: int) -> None:
        """An epoch, counted from 0, is about to begin."""
        next_epoch(self._model)
        first = self._progress.fresh
        self._progress = self._progress.begin_epoch(epoch, self._seconds())
        self._begin_data(epoch, first=first)
        if first:
            self._fit.restore_history(self._logs.history)
            if self._restoration is not None:
                self._restoration.restore_at_epoch_begin()
            if not self._progress.nothing_left_in_epoch:
                self._restoration = None
            elif self._leads:
                self._fit.train_nothing()
        self._progress = self._progress.count_updates(self._updates())
        if first:
            self._observe("train_begin")

    def _begin_data(self, epoch: int, *, first: bool) -> None:
        source = self._settings.source
        if source is None:
            return
        if not self._fit.flows():
            source.start(epoch, self._progress.offset)
        elif first and source.steps_per_epoch:
            # One pass after another, independent of what `fit` calls an epoch.
            source.start(*divmod(self._progress.now.step, source.steps_per_epoch))

    def batch_begin(self, batch: int) -> None:
        """A call of the train function begins with this batch, as Keras counts it."""
        self._begun = batch
        self._observer.begin_call()

    def _step_returned(self) -> None:
        """The train function has returned; other callbacks learn of it before us."""
        self._owed = True

    def batch_end(self, logs: Mapping[str, Any]) -> None:
        """The batches of one call of the train function are done."""
        self._owed = False
        if self._restoration is not None:
            # Nothing was trained: an earlier session trained all batches of this epoch.
            self._restoration.restore_at_epoch_begin()
            self._restoration = None
            end_epoch(self._model)
            return
        progress = self._progress = self._after_call()
        self._logs.receive(logs)
        if not progress.at_epochs_end:
            if is_stopped(self._model):
                self._cut()
            if not self._observer.quiet(progress.now):
                self._observe("step")
        elif progress.ends_without_keras:
            # Otherwise the epoch's end, with all its logs, is also the end of this batch.
            end_epoch(self._model)

    def test_begin(self) -> None:
        """A validation begins."""
        self._progress = self._progress.begin_validation()
        self._observer.begin_validation(self._progress.now)

    def test_batch_end(self) -> None:
        """A batch of a validation is done: external requests need not wait for the rest."""
        if not self._progress.cut_short:
            self._observe("validation")
        if is_interrupted(self._model):
            end_validation(self._model)

    def epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """An epoch, validation included, is over."""
        next_epoch(self._model)
        if self._progress.cut_short:
            return  # the training was stopped within the epoch: it has not ended
        self._progress = self._progress.end_epoch(epoch, self._seconds())
        self._logs.receive(logs)
        self._logs.end_epoch(epoch, logs)
        self._observe("epoch_end")
        later: Validation = "later" if self._fit.validates() else "none"
        validation: Validation = "done" if self._progress.validated else later
        self._logs.check_metrics(self._progress.now.logs, validation)

    def end(self) -> None:
        """`fit` is about to return: save what is due, finish everything, report failures.

        Raises SystemExit where a signal was to end the process.
        """
        self._fit.restore_history(self._logs.history)
        self._observe("train_end")
        now = self._progress.now
        if self._logs.history and not self._progress.cut_short:
            self._logs.check_metrics(now.logs, "done")  # no later validation will come
        if self._context.policy.on_failure == "resave" and self._observer.has_trained:
            self._pipeline.join(self._report_left)  # no later step can save again
            self._observer.save_again(now, self._state(consistent=True))
        self._finish(stop=True)
        if self._observer.requests.exit_status is not None:
            raise SystemExit(self._observer.requests.exit_status)

    def leave(self, error: BaseException, in_step: bool) -> None:
        """An exception is about to leave `fit`: save if it is due, and finish everything.

        in_step: whether it left the train function.
        """
        if self._over:
            return  # it is our own SystemExit
        # Other failures are only warned about: this exception continues unchanged.
        consistent = not in_step
        if in_step and not isinstance(error, Exception) and not self._model.run_eagerly:
            # Ctrl-C: Python handles it between two steps, though it seems to be within one.
            consistent = True
            step = self._progress.step_of(self._updates())
            self._owed = step == self._after_call().now.step
        if self._owed:
            self._progress = self._after_call()
        elif not self._observer.has_trained:
            self._finish(stop=False)
            return
        try:
            self._observe("exception", consistent=consistent)
        finally:
            self._context.directory.events.append(
                "interrupted", why=type(error).__name__, step=self._progress.now.step
            )
            self._finish(stop=False)

    # Steps of hooks.

    def _seconds(self) -> float:
        return self._context.clock() - self._since

    def _updates(self) -> int:
        optimizer = self._model.optimizer
        return 0 if optimizer is None else int(optimizer.iterations.numpy())

    def _after_call(self) -> Progress:
        return self._progress.end_call(self._begun, self._seconds())

    def _state(self, *, consistent: bool) -> TrainingState:
        history = self._logs.history
        return TrainingState(self._settings, self._progress.length, history, consistent)

    def _observe(self, event: Event, *, consistent: bool = True) -> None:
        logs = self._logs.read()
        if logs is not None:
            self._progress = self._progress.with_logs(logs)
        state = self._state(consistent=consistent)
        if self._observer.observe(event, self._progress.now, state):
            self._stop(event)
        if event in ("step", "validation", "epoch_end"):  # otherwise at the very end
            self._report_problems(stop=True)

    def _stop(self, event: Event) -> None:
        """Make `fit` end as if a callback had stopped it; a resume continues from the save."""
        if event in ("train_end", "exception"):
            return
        interrupt(self._model)
        if event in ("step", "validation"):
            self._cut()
        step = self._progress.now.step
        self._report.info(f"training stops after step {step}, as the policy says")

    def _cut(self) -> None:
        """This epoch does not end."""
        self._progress = self._progress.cut()
        self._observer.cut()

    # The end.

    def _report_left(self, count: int) -> None:
        if count:
            self._report.info(f"{count_of(count)} left to verify")

    def _report_problems(self, *, stop: bool) -> None:
        problems = self._pipeline.outcomes.problems()
        if problems and stop and self._context.policy.on_failure == "raise":
            raise combined(problems)
        self._report.problems(self._pipeline.outcomes.notices(), problems)

    def _finish(self, *, stop: bool) -> None:
        done = True
        try:
            pending = self._pipeline.pending
            if pending:
                self._report.info(f"finishing {count_of(pending)}")
            deadline = self._observer.requests.grace_deadline
            done = self._pipeline.close(deadline, self._report_left)
            if not done:
                self._report.info(
                    "not finished within the grace period; the newest checkpoint is unaffected"
                )
        finally:
            self._over = True
            self._observer.requests.release()
            self._fit.release()
            if done:  # otherwise this process still writes
                self._context.writer.release()
        self._report_problems(stop=stop)
