"""External requests to save: signals, files, deadlines; and the cost of saving."""

import os
import signal
import threading

import pytest

from keras_savekit.base.moment import Moment, Tick
from keras_savekit.fit.overhead_meter import OverheadMeter
from keras_savekit.fit.requests import CHECK_INTERVAL, RequestMonitor
from keras_savekit.fit.signals import Signals
from keras_savekit.policy.plan import Policy, SavePlan, decide


class Clock:
    def __init__(self, now=100.0):
        self.now = now

    def __call__(self):
        return self.now


class Watched:
    """A policy that waits for something, and what it decides now."""

    def __init__(self, path, *when, environ=None):
        self.policy = Policy(plans=[SavePlan(name="p", when=list(when))])
        self.clock = Clock()
        self.monitor = RequestMonitor(self.policy, path, self.clock, self.clock, environ or {})
        self.memory = {}

    def tick(self):
        """Reasons for a save now, and whether training is to stop."""
        seen = self.monitor.requests()
        tick = Tick(Moment(), Moment(), "step", self.memory, seen)
        decision = decide(self.policy, tick)
        self.memory = decision.memory
        stop = self.monitor.acknowledge(decision.due, tick)
        return [reason for due in decision.due for reason in due.reasons], stop


@pytest.fixture
def usr1():
    """A handler that the program had set before."""
    came = []

    def handler(number, frame):
        came.append(number)

    before = signal.signal(signal.SIGUSR1, handler)
    yield came
    assert signal.getsignal(signal.SIGUSR1) is handler
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_requests_one_save_however_often_it_comes_and_stops_training(tmp_path):
    watched = Watched(tmp_path, "signal SIGUSR2")
    try:
        assert watched.tick() == ([], False)
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert watched.tick() == (["SIGUSR2 came"], True)
        assert watched.tick() == ([], False)
    finally:
        watched.monitor.release()


def test_a_grace_period_counts_from_the_signal_and_has_no_effect_when_it_is_over(tmp_path):
    patient = {"names": ["SIGUSR2"], "grace": "30s", "then": "continue"}
    watched = Watched(tmp_path, {"signal": {**patient, "grace": "90s"}}, {"signal": patient})
    try:
        assert (watched.tick(), watched.monitor.grace_deadline) == (([], False), None)
        os.kill(os.getpid(), signal.SIGUSR2)
        watched.clock.now += 10  # a step that takes long
        assert watched.tick()[0] == ["SIGUSR2 came", "SIGUSR2 came"]
        assert watched.monitor.grace_deadline == 130.0
        watched.clock.now += 19
        assert (watched.tick(), watched.monitor.grace_deadline) == (([], False), 130.0)
        watched.clock.now += 1
        assert watched.monitor.grace_deadline == 190.0
        watched.clock.now += 60
        assert watched.monitor.grace_deadline is None
    finally:
        watched.monitor.release()


def test_a_signal_waits_for_the_rest_of_a_condition_though_another_plan_has_saved_for_it(
    tmp_path,
):
    plans = [
        SavePlan(name="now", when="signal SIGUSR2 then continue"),
        SavePlan(
            name="later", when={"all": ["signal SIGUSR2", {"not": "every 1 step"}, "file NOW"]}
        ),
    ]
    watched = Watched(tmp_path, "every epoch")
    watched.policy = Policy(plans=plans)
    watched.monitor = RequestMonitor(watched.policy, tmp_path, watched.clock, watched.clock, {})
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert watched.tick() == (["SIGUSR2 came"], False)
        assert watched.tick() == ([], False)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert watched.tick() == (["SIGUSR2 came"], False)  # it came again
        (tmp_path / "NOW").touch()
        watched.clock.now += CHECK_INTERVAL
        (reason,), stop = watched.tick()
        assert reason.startswith("SIGUSR2 came and ")
        assert stop  # as `later` says
        assert watched.tick() == ([], False)
    finally:
        watched.monitor.release()


def test_training_continues_after_a_signal_where_the_policy_says_so(tmp_path, usr1):
    watched = Watched(tmp_path, "signal SIGUSR1 then continue")
    os.kill(os.getpid(), signal.SIGUSR1)
    assert watched.tick() == (["SIGUSR1 came"], False)
    watched.monitor.release()


def test_a_handler_that_was_set_before_is_called_too_and_restored(tmp_path, usr1):
    watched = Watched(tmp_path, "signal SIGUSR1")
    os.kill(os.getpid(), signal.SIGUSR1)
    assert usr1 == [signal.SIGUSR1]
    watched.monitor.release()
    watched.monitor.release()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert len(usr1) == 2


def test_ctrl_c_waits_for_the_save_instead_of_breaking_the_step():
    signals = Signals(["SIGINT"])
    assert signals.watch()
    os.kill(os.getpid(), signal.SIGINT)
    assert set(signals.received()) == {"SIGINT"}
    signals.release()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_someone_has_set_since_is_left():
    before = signal.getsignal(signal.SIGUSR2)
    signals = Signals(["SIGUSR2"])
    signals.watch()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signals.release()
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
    signal.signal(signal.SIGUSR2, before)


def test_outside_the_main_thread_it_is_reported_that_no_signal_is_handled(tmp_path):
    told = []

    def make():
        told.append(Watched(tmp_path, "signal SIGUSR1").monitor.problems)
        told.append(Watched(tmp_path, "every epoch").monitor.problems)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert told == [["signals are handled only where fit runs in the main thread"], []]


def test_a_file_requests_one_save_and_is_removed_when_it_has_begun(tmp_path):
    watched = Watched(tmp_path, "file NOW")
    assert watched.tick() == ([], False)
    (tmp_path / "NOW").touch()
    assert watched.tick() == ([], False)  # checked only now and then
    watched.clock.now += CHECK_INTERVAL
    assert watched.tick() == (["the file NOW requested it"], False)
    assert not (tmp_path / "NOW").exists()
    assert watched.tick() == ([], False)


def test_a_file_that_cannot_be_removed_is_reported_and_requests_no_second_save(tmp_path):
    watched = Watched(tmp_path, "file NOW")
    (tmp_path / "NOW").mkdir()
    assert watched.tick() == (["the file NOW requested it"], False)
    watched.clock.now += CHECK_INTERVAL
    assert watched.tick() == ([], False)
    (told,) = watched.monitor.problems
    assert "cannot remove the file that requested a save" in told


def test_a_request_stays_until_the_rest_of_its_condition_is_met_too(tmp_path):
    watched = Watched(tmp_path, {"all": ["file NOW", "every 90 seconds"]})
    (tmp_path / "NOW").touch()
    assert watched.tick() == ([], False)
    assert (tmp_path / "NOW").exists()


def test_a_deadline_comes_from_the_environment_and_a_missing_one_is_reported(tmp_path):
    trigger = {"before_deadline": {"at": "env END", "margin": "10s"}}
    watched = Watched(tmp_path, trigger, environ={"END": "120"})
    assert watched.tick() == ([], False)
    watched.clock.now = 110.0
    assert watched.tick() == (["10s before the deadline"], False)
    assert watched.tick() == ([], False)
    (problem,) = Watched(tmp_path, trigger).monitor.problems
    assert "there is no time in env END" in problem


def test_a_deadline_stops_training_once_where_the_policy_says_so(tmp_path):
    trigger = {"before_deadline": {"at": "120", "margin": "10s", "then": "stop"}}
    watched = Watched(tmp_path, trigger, "every 115 seconds")
    watched.clock.now = 110.0
    assert watched.tick() == (["10s before the deadline"], True)
    assert watched.tick() == ([], False)


def test_cost_makes_intervals_longer_only_under_a_budget():
    clock = Clock()
    free, bound = OverheadMeter(None, clock), OverheadMeter(0.05, clock)
    for meter in (free, bound):
        meter.add_stall(3.0)
    clock.now += 10
    assert (free.update(0.0), free.interval_factor) == (False, 1)
    assert (bound.update(0.0), bound.interval_factor) == (True, 2)
    assert (bound.update(0.0), bound.interval_factor) == (False, 2)
    assert bound.update(1000.0)
