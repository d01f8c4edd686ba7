"""What the background reports, without a pipeline."""

import threading

import pytest
from training_builders import events

from keras_savekit.errors import DirectoryError, SaveError
from keras_savekit.policy.plan import SavePlan
from keras_savekit.save.outcomes import Outcomes, failure_of, reason_of
from keras_savekit.store.event_log import EventLog

PLAN = SavePlan(name="p", when="every epoch")


@pytest.fixture
def outcomes(tmp_path):
    return Outcomes(EventLog(tmp_path / "events.jsonl"))


def test_everything_is_taken_once_and_in_order(outcomes):
    first, second = SaveError("one"), SaveError("two")
    outcomes.add_problem(first)
    outcomes.add_problem(second)
    outcomes.add_notice("a")
    assert not outcomes.empty
    assert outcomes.problems() == [first, second]
    assert outcomes.notices() == ["a"]
    assert outcomes.empty
    assert (outcomes.problems(), outcomes.notices(), outcomes.retries()) == ([], [], [])


def test_a_notice_about_one_subject_is_reported_once(outcomes):
    for text in ("p is not saved: no room", "p is not saved: still no room", "q: other"):
        outcomes.add_notice_once(text)
    assert outcomes.notices() == ["p is not saved: no room", "q: other"]
    outcomes.add_notice_once("p is not saved: again")
    assert outcomes.empty


def test_a_plan_is_retried_once_until_it_has_a_good_checkpoint(outcomes):
    outcomes.add_retry(PLAN, "it failed")
    outcomes.add_retry(PLAN, "it failed again")
    (retry,) = outcomes.retries()
    assert (retry.plan, retry.reasons) == (PLAN, ("it failed",))
    outcomes.add_retry(PLAN, "it failed again")
    assert outcomes.empty
    outcomes.allow_retry(PLAN)
    outcomes.add_retry(PLAN, "it failed later")
    assert [retry.reasons for retry in outcomes.retries()] == [("it failed later",)]


def test_deferred_events_are_written_once_and_in_order(outcomes, tmp_path):
    outcomes.defer_event("captured", step=1)
    outcomes.defer_event("captured", step=2)
    assert not (tmp_path / "events.jsonl").exists()
    outcomes.write_events()
    outcomes.write_events()
    assert [event["step"] for event in events(tmp_path)] == [1, 2]


def test_events_that_cannot_be_written_are_reported_once(tmp_path):
    outcomes = Outcomes(EventLog(tmp_path))  # a directory is in its place
    outcomes.defer_event("captured", step=1)
    outcomes.write_events()
    (notice,) = outcomes.notices()
    assert "checkpoints are not affected" in notice
    assert outcomes.notices() == []


def test_two_threads_lose_nothing_and_take_nothing_twice(outcomes):
    count, taken = 500, []

    def take():
        while len(taken) < 2 * count:
            taken.extend(outcomes.notices())

    def add(name):
        for number in range(count):
            outcomes.add_notice(f"{name}{number}")

    threads = [threading.Thread(target=add, args=(name,)) for name in "ab"]
    threads.append(threading.Thread(target=take))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(taken) == sorted(f"{name}{number}" for name in "ab" for number in range(count))


def test_a_failure_has_the_place_the_remedy_and_the_cause_of_its_exception():
    error = DirectoryError("no space left", "/run", "free some")
    problem = failure_of("x could not be saved", error, "/elsewhere")
    assert (problem.what, problem.where) == ("x could not be saved: no space left", "/run")
    assert problem.remedy.startswith("free some\n")
    assert problem.__cause__ is error


def test_a_foreign_exception_is_named_with_the_place_of_the_run():
    problem = failure_of("x could not be saved", ValueError("odd"), "/run")
    assert (problem.what, problem.where) == ("x could not be saved: ValueError: odd", "/run")
    assert reason_of(ValueError("odd")) == "ValueError: odd"
