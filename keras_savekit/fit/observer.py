"""Ask the policy at a moment of training, and hand what is due to the pipeline.

    tick -> decide -> capture -> save -> acknowledge

The observer has the memory of the triggers and the means to take snapshots. When
it is asked, and what follows from a requested stop, is the session's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from keras_savekit.base.moment import AT_ONCE, Event, Moment, Tick
from keras_savekit.files import portability_warnings
from keras_savekit.fit import callback_state
from keras_savekit.fit.callback_state import CallbackStates
from keras_savekit.fit.context import SessionContext
from keras_savekit.fit.overhead_meter import OverheadMeter
from keras_savekit.fit.requests import RequestMonitor
from keras_savekit.fit.steering import Fit
from keras_savekit.fit.training_state import TrainingState
from keras_savekit.formats.registry import FORMATS
from keras_savekit.model.capture import Capture
from keras_savekit.model.compile_settings import CompileSettings
from keras_savekit.model.structure import LiveModel
from keras_savekit.policy.plan import Decision, decide, horizon
from keras_savekit.save.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Subject:
    """What is observed: a model in a `fit`, with its configuration at the beginning."""

    model: Any
    fit: Fit
    configuration: CompileSettings

    def live(self) -> LiveModel:
        """Return the model as it can be captured, with the variables that it has now."""
        return LiveModel(self.model, self.configuration)


class Observer:
    """The decisions and saves of one session.

    start: the moment at which the session begins.
    memory: what the triggers remember.

    requests: external requests to save.
    """

    def __init__(
        self,
        context: SessionContext,
        subject: Subject,
        pipeline: Pipeline,
        start: Moment,
        memory: Mapping[str, float],
    ) -> None:
        self._context = context
        self._subject = subject
        self._pipeline = pipeline
        self.memory = memory
        self._seen = start
        self._horizon = AT_ONCE
        self._capture: Capture | None = None
        self._training_metrics: Mapping[int, Any] | None = None
        self._states_at_cut: CallbackStates | None = None
        policy, clock = context.policy, context.clock
        self._meter = OverheadMeter(policy.limits.overhead, clock)
        self.requests = RequestMonitor(policy, context.directory.path, context.wall, clock)
        self._report_requests()

    @property
    def has_trained(self) -> bool:
        """Whether a step was observed, so that there is something to save."""
        return self._capture is not None

    def quiet(self, now: Moment) -> bool:
        """Return whether there is nothing to save, to learn, to report or to prepare."""
        if self._capture is None:
            return False
        ahead = self._horizon.is_ahead_of(now) and not self._meter.limited
        return ahead and self.requests.quiet() and self._pipeline.outcomes.empty

    def prepare(self, now: Moment) -> None:
        """Get ready to take snapshots, once everything has its variables."""
        if self._capture is not None or now.step == self._seen.step:
            return  # metrics get theirs in the first step
        live = self._subject.live()
        formats = [FORMATS[plan.format] for plan in self._context.policy.plans]
        for text in portability_warnings(live.blueprint, formats):
            self._context.report.warn(text)
        self._capture = Capture(live)

    def begin_call(self) -> None:
        """A call of the train function begins: the model's metrics are those of training."""
        self._training_metrics = None

    def begin_validation(self, now: Moment) -> None:
        """Keep the metrics of the training: the validation resets them."""
        self.prepare(now)
        if self._capture is not None:
            self._training_metrics = self._capture.metrics()

    def cut(self) -> None:
        """Keep the states of callbacks: what they make of an epoch's early end is not saved."""
        self._states_at_cut = callback_state.collect(self._subject.fit.other_callbacks())

    def observe(self, event: Event, now: Moment, state: TrainingState) -> bool:
        """Save what is due at a moment; return whether the policy stops the training."""
        self.prepare(now)
        requests, factor = self.requests.requests(), self._meter.interval_factor
        before = now if event == "validation" else self._seen
        tick = Tick(before, now, event, self.memory, requests, factor)
        decision = self._with_retries(decide(self._context.policy, tick))
        capture = self._capture
        if event == "train_begin" and decision.due:
            capture = Capture(self._subject.live())
        if decision.due and capture is None:
            return False  # nothing was trained; external requests wait
        self.memory = decision.memory
        if event != "validation":  # what is due at this step is due at the epoch's end
            self._seen = now
            self._horizon = horizon(self._context.policy, now, factor)
        stop = False
        if decision.due and capture is not None:
            self._save(decision, capture, now, state, ended=event == "train_end")
            stop = self.requests.acknowledge(decision.due, tick)
            self._report_requests()
        if self._meter.update(self._pipeline.computed()):
            self._report_interval_factor(now)
        return stop

    def save_again(self, now: Moment, state: TrainingState) -> None:
        """Save what has failed since the last observation; for the end of training."""
        again = Decision(tuple(self._pipeline.outcomes.retries()), self.memory)
        if again.due and self._capture is not None:
            self._save(again, self._capture, now, state, ended=True)

    def _with_retries(self, decision: Decision) -> Decision:
        again = self._pipeline.outcomes.retries()
        if not again:
            return decision
        planned = {due.plan for due in decision.due}
        unplanned = (due for due in again if due.plan not in planned)
        return replace(decision, due=(*decision.due, *unplanned))

    def _save(
        self,
        decision: Decision,
        capture: Capture,
        now: Moment,
        state: TrainingState,
        *,
        ended: bool,
    ) -> None:
        began = self._context.clock()
        others = self._subject.fit.other_callbacks()
        callbacks = self._states_at_cut or callback_state.collect(others)
        values = state.values(self._subject.model, now, self.memory)
        values |= {"callbacks": callbacks.states, "ended": ended}
        snapshot = capture(now, values, callbacks.arrays, self._training_metrics)
        for due in decision.due:
            # At the end callbacks change weights: to the best ones, or to averages.
            self._pipeline.save(snapshot, due, self.requests.grace_deadline, may_differ=ended)
        stall = self._context.clock() - began
        self._meter.add_stall(stall)
        self._pipeline.outcomes.defer_event("captured", step=now.step, stall=round(stall, 6))

    def _report_requests(self) -> None:
        while self.requests.problems:
            self._context.report.info(self.requests.problems.pop(0))

    def _report_interval_factor(self, now: Moment) -> None:
        factor = self._meter.interval_factor
        self._context.directory.events.append("stretched", times=factor, step=now.step)
        self._context.report.info_once(
            "overhead",
            f"saving takes more than limits.overhead allows: intervals are {factor} times"
            " longer for now; events.jsonl has every change",
        )
