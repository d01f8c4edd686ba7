"""What becomes of a snapshot beside the training: written, published, verified, kept or not."""

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from test_store_builders import prepared
from torture.worlds import STATE
from training_builders import damage_steps, events, names, wait_until

from keras_savekit.base.moment import Moment
from keras_savekit.base.tensors import Blueprint, Group, LayerWeights, Slot, Snapshot, Variable
from keras_savekit.errors import SaveError
from keras_savekit.formats import checkpoint as checkpoint_files
from keras_savekit.policy.plan import Due, Policy, SavePlan
from keras_savekit.save.pipeline import Pipeline
from keras_savekit.save.verifier import OVERTAKEN, UNVERIFIED, VerificationJob, Verifier
from keras_savekit.store.manifest import Verification
from keras_savekit.store.run_writer import RunWriter

BLUEPRINT = Blueprint(
    variables=(Variable("weight", 0, "dense/kernel", (2, 2), "float32"),),
    layers=(LayerWeights("dense", (0,)),),
    top_level=(),
    groups=(Group("layers/dense/vars"),),
    slots=(Slot("layers/dense/vars/0", 0),),
    model_config="{}",
    training_config=None,
    compile_config=None,
    learning_rate=None,
    versions={"keras": "3"},
)
TIMEOUT = 20


def snapshot(step, value=None, **logs):
    kernel = tf.constant(np.full((2, 2), step if value is None else value, np.float32))
    return Snapshot(BLUEPRINT, [kernel], Moment(step=step, logs=logs), {"step": step, **STATE})


def plan(**changes):
    return SavePlan(**{"name": "p", "when": "every 1 steps", "verify": "bytes", **changes})


class Running:
    """A pipeline over a directory, opened as a session opens it."""

    def __init__(self, path, *plans, **policy):
        self.directory = prepared(path)
        self.plans = plans or (plan(),)
        asked = Policy(plans=list(self.plans), **policy)
        self.pipeline = Pipeline(self.directory, asked, "run", lambda: 1.0)

    def save(self, *steps, plan=None, **logs):
        for step in steps:
            due = Due(plan or self.plans[0], (f"because of {step}",))
            self.pipeline.save(snapshot(step, **logs), due)

    def finished(self):
        self.pipeline.close()
        return self.directory


@pytest.fixture
def slow_disk(monkeypatch):
    """Writing waits until it is let go; tells when it has begun."""
    go, begun, write = threading.Event(), threading.Event(), checkpoint_files.write

    def held(*arguments):
        begun.set()
        assert go.wait(TIMEOUT)
        return write(*arguments)

    monkeypatch.setattr(checkpoint_files, "write", held)
    yield go, begun
    go.set()


def test_a_snapshot_becomes_a_verified_checkpoint_with_its_reason(tmp_path):
    running = Running(tmp_path)
    running.save(7)
    (found,) = running.finished().checkpoints()
    assert (found.name, found.status) == ("000000007-p", "verified")
    assert found.manifest.reasons == ("because of 7",)
    assert (tmp_path / "latest").resolve() == found.path


def test_when_the_disk_is_slow_the_newest_snapshot_replaces_the_one_that_waits(tmp_path, slow_disk):
    go, begun = slow_disk
    running = Running(tmp_path)
    running.save(1)
    assert begun.wait(TIMEOUT)
    running.save(2, 3)
    go.set()
    running.finished()
    assert names(tmp_path) == ["000000001-p", "000000003-p"]
    (replaced,) = events(tmp_path, "replaced")
    assert (replaced["name"], replaced["reasons"]) == ("000000002-p", ["because of 2"])
    assert "000000003-p is newer" in replaced["why"]


def test_a_longer_queue_lets_more_snapshots_wait(tmp_path, slow_disk):
    go, begun = slow_disk
    running = Running(tmp_path, limits={"queue": 2})
    running.save(1)
    assert begun.wait(TIMEOUT)
    running.save(2, 3, 4)
    go.set()
    running.finished()
    assert names(tmp_path) == ["000000001-p", "000000003-p", "000000004-p"]


def test_one_plan_does_not_replace_what_another_asked_for(tmp_path, slow_disk):
    go, begun = slow_disk
    often, best = plan(name="often"), plan(name="best")
    running = Running(tmp_path, often, best)
    running.save(1)
    assert begun.wait(TIMEOUT)
    running.save(2, plan=best)
    running.save(3, 4)
    go.set()
    running.finished()
    assert names(tmp_path) == ["000000001-often", "000000002-best", "000000004-often"]


def test_a_plan_that_waits_loses_no_snapshot(tmp_path):
    running = Running(tmp_path, plan(when_busy="wait"))
    running.save(*range(1, 30))
    assert len(running.finished().checkpoints()) == 29


def test_a_step_that_is_already_saved_is_not_saved_again(tmp_path):
    running = Running(tmp_path)
    running.save(5)
    running.finished()
    again = Running(tmp_path)
    again.save(5)
    assert again.finished().checkpoints()[0].manifest.reasons == ("because of 5",)
    assert events(tmp_path, "skipped")[0]["why"] == "this step is already saved"


def test_a_save_that_would_outlast_a_grace_period_is_not_begun_and_this_is_told(tmp_path):
    running = Running(tmp_path)
    (due,) = (Due(running.plans[0], ("SIGTERM came",)),)
    running.save(1)
    running.pipeline._writer.join()
    running.pipeline.save(snapshot(2), due, grace_deadline=time.monotonic())
    running.pipeline.save(snapshot(3), due, grace_deadline=time.monotonic() + 1000)
    (told,) = running.pipeline.outcomes.notices()
    running.finished()
    assert names(tmp_path) == ["000000001-p", "000000003-p"]
    assert told.startswith("p is not saved: of the grace period ")
    assert events(tmp_path, "skipped")[0]["name"] == "000000002-p"


def test_waiting_ends_with_a_grace_period_and_what_is_under_way_is_still_published(
    tmp_path, slow_disk
):
    go, begun = slow_disk
    running = Running(tmp_path)
    running.save(1)
    assert begun.wait(TIMEOUT)
    assert not running.pipeline.close(until=time.monotonic())
    assert running.directory.checkpoints() == []
    go.set()
    assert running.pipeline.close(until=time.monotonic() + TIMEOUT)
    assert names(tmp_path) == ["000000001-p"]
    assert running.directory.checkpoints()[0].status == "verified"


def test_room_for_a_compressed_save_is_judged_by_what_the_last_one_took(tmp_path):
    packed = plan(compression="gzip", keep="all")
    blueprint = replace(
        BLUEPRINT, variables=(Variable("weight", 0, "dense/kernel", (500, 500), "float32"),)
    )
    running = Running(tmp_path, packed, limits={"disk": "1080kB"})
    for step in (1, 2, 3):
        kernel = tf.zeros((500, 500))  # a megabyte that becomes a few kilobytes
        moment = Moment(step=step)
        given = Snapshot(blueprint, [kernel], moment, {"step": step})
        running.pipeline.save(given, Due(packed, ("asked",)))
        running.pipeline._writer.join()
    running.finished()
    assert len(names(tmp_path)) == 3


def test_what_was_replaced_can_be_asked_for_again(tmp_path, slow_disk):
    go, begun = slow_disk
    running = Running(tmp_path)
    running.save(1)
    assert begun.wait(TIMEOUT)
    running.save(2, 3, 2)
    go.set()
    running.finished()
    assert names(tmp_path) == ["000000001-p", "000000002-p"]


def test_a_write_that_fails_leaves_nothing_and_the_next_one_is_written(tmp_path, monkeypatch):
    write = checkpoint_files.write

    def failing(directory, snapshot, purpose, *rest):
        if snapshot.moment.step == 1:
            (directory / "model.h5").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return write(directory, snapshot, purpose, *rest)

    monkeypatch.setattr(checkpoint_files, "write", failing)
    running = Running(tmp_path, plan(when_busy="wait"))
    running.save(1, 2)
    running.finished()
    assert names(tmp_path) == ["000000002-p"]
    assert not list((tmp_path / "checkpoints").glob(".*"))
    (problem,) = running.pipeline.outcomes.problems()
    assert isinstance(problem, SaveError)
    assert "000000001-p could not be saved" in str(problem)
    assert "No space left" in str(problem)
    assert events(tmp_path, "failed")[0]["name"] == "000000001-p"
    assert running.pipeline.outcomes.problems() == []  # told once


def test_a_step_whose_save_failed_can_be_saved_again(tmp_path, monkeypatch):
    write, left = checkpoint_files.write, [1]

    def failing_once(*arguments):
        if left:
            left.pop()
            raise OSError(28, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(checkpoint_files, "write", failing_once)
    running = Running(tmp_path)
    running.save(1)
    running.pipeline._writer.join()
    running.save(1)
    running.finished()
    assert names(tmp_path) == ["000000001-p"]
    assert events(tmp_path, "skipped") == []


def test_nothing_is_shared_with_a_checkpoint_that_failed_its_verification(tmp_path, monkeypatch):
    damage_steps(monkeypatch, 2)
    write, bases = checkpoint_files.write, []

    def watched(directory, snapshot, purpose, forms, base, *rest):
        bases.append(base)
        return write(directory, snapshot, purpose, forms, base, *rest)

    monkeypatch.setattr(checkpoint_files, "write", watched)
    running = Running(tmp_path, plan(reuse=True))
    for step in (1, 2, 3, 4):
        running.save(step)
        running.pipeline.join()
    running.finished()
    shared_with = [base is not None for base in bases]
    assert shared_with == [False, True, False, True]  # 2 is bad: 3 stands alone


def test_a_save_that_has_no_room_is_left_out_with_the_reason(tmp_path):
    running = Running(tmp_path, limits={"disk": "10kB"})
    running.save(1)
    directory = running.finished()
    assert directory.checkpoints() == []
    (told,) = running.pipeline.outcomes.notices()
    assert "p is not saved: it needs " in told
    assert "under limits.disk: 10kB" in told
    assert events(tmp_path, "skipped")[0]["name"] == "000000001-p"


def test_a_step_that_was_refused_can_be_saved_once_nothing_speaks_against_it(tmp_path):
    running = Running(tmp_path)
    due = Due(running.plans[0], ("asked",))
    for value in (np.nan, 1.0):
        running.pipeline.save(snapshot(1, value), due)
        running.pipeline._writer.join()
    running.finished()
    assert names(tmp_path) == ["000000001-p"]
    (skipped,) = events(tmp_path, "skipped")
    assert skipped["why"] == "dense/kernel contains values that are not finite"


def test_a_checkpoint_that_fails_its_verification_is_set_aside_and_told(tmp_path, monkeypatch):
    damage_steps(monkeypatch, 2)
    running = Running(tmp_path, plan(when_busy="wait", keep="last 1"))
    running.save(1, 2)
    directory = running.finished()
    assert names(tmp_path) == ["000000001-p"]  # not counted, so it did not push this one out
    (name, verification) = directory.quarantined()[0]
    assert name == "000000002-p"
    assert verification.findings
    assert directory.linked("latest") == "000000001-p"
    (problem,) = running.pipeline.outcomes.problems()
    assert "000000002-p failed its verification" in str(problem)


def test_what_fails_is_saved_again_once_until_something_good_stands(tmp_path, monkeypatch):
    damage_steps(monkeypatch, 2, 3, 5)
    running = Running(tmp_path, plan(when_busy="wait"), on_failure="resave")
    asked = []
    for step in (1, 2, 3, 4, 5):
        running.save(step)
        running.pipeline.join()
        asked.append([each.reasons for each in running.pipeline.outcomes.retries()])
        assert running.pipeline.outcomes.retries() == []
    running.finished()
    assert asked == [[], [("000000002-p failed its verification",)], [], [],
                     [("000000005-p failed its verification",)]]  # fmt: skip


def test_nothing_is_saved_again_where_the_policy_does_not_say_so(tmp_path, monkeypatch):
    damage_steps(monkeypatch, 1)
    running = Running(tmp_path)
    running.save(1)
    running.finished()
    assert running.pipeline.outcomes.retries() == []
    assert len(running.pipeline.outcomes.problems()) == 1


@pytest.mark.slow
def test_the_end_waits_as_long_as_the_policy_says_and_the_next_session_goes_on(tmp_path):
    running = Running(tmp_path, plan(verify="load", when_busy="wait"), limits={"final_wait": 0})
    running.save(1, 2)
    directory = running.finished()
    assert [each.status for each in directory.checkpoints()] == ["unverified", "unverified"]
    assert {each["name"] for each in events(tmp_path, "unverified")} == set(names(tmp_path))
    told = [each for each in running.pipeline.outcomes.notices() if "(limits.final_wait)" in each]
    assert f"`savekit verify {tmp_path}` verifies them" in "".join(told)
    assert running.pipeline.pending == 0
    assert running.pipeline._verifier.checker.pid is None
    Running(tmp_path, plan()).finished()
    assert [each.status for each in directory.checkpoints()] == ["verified", "verified"]


def test_what_is_known_when_the_end_waits_no_longer_is_recorded_all_the_same(tmp_path):
    directory = prepared(tmp_path)
    asked, settled = plan(), []
    begun, ended = threading.Event(), threading.Event()

    def settle(job, verification):
        begun.set()
        assert job.name != "first" or ended.wait(TIMEOUT)
        settled.append((job.name, verification))

    limited = Policy(plans=[asked], limits={"final_wait": 0})
    checks = Verifier(directory, limited, lambda: 1.0, settle, lambda job, error: None)
    stop = checks.checker.stop

    def stop_and_go_on(why):
        stop(why)
        ended.set()

    checks.checker.stop = stop_and_go_on
    known, unknown = Verification("bytes", 1.0), Verification("structure", 2.0)
    checks._hand_over(VerificationJob("first", asked), known)
    assert begun.wait(TIMEOUT)
    # Loaded, and waiting to be recorded.
    checks._hand_over(VerificationJob("second", asked), unknown)
    assert not checks.finish(lambda left: None)
    assert settled == [("first", known), ("second", unknown)]
    assert not (tmp_path / "events.jsonl").exists()
    checks.close()


def test_a_checkpoint_is_pending_until_its_outcome_is_recorded(tmp_path, monkeypatch):
    pending = []
    record = RunWriter.record

    def looked_at(directory, name, verification):
        pending.append(running.pipeline.pending)
        record(directory, name, verification)

    monkeypatch.setattr(RunWriter, "record", looked_at)
    running = Running(tmp_path)
    running.save(1)
    running.pipeline._writer.join()
    running.finished()
    assert len(pending) == 1
    assert pending[0] >= 1
    assert running.pipeline.pending == 0


@pytest.mark.slow
def test_writing_waits_for_no_loading_and_what_is_overtaken_is_told(tmp_path):
    running = Running(tmp_path, plan(verify="load", when_busy="wait"))
    running.pipeline.preallocate([])
    pid = running.pipeline._verifier.checker.pid
    os.kill(pid, signal.SIGSTOP)
    for step in range(1, UNVERIFIED + 4):  # one being loaded, two too many
        running.save(step)
    running.pipeline._writer.join()
    wait_until(lambda: len(events(tmp_path, "verified")) == 2, TIMEOUT)
    assert len(names(tmp_path)) == UNVERIFIED + 3
    os.kill(pid, signal.SIGCONT)
    directory = running.finished()
    found = {each.name: each.verification for each in directory.checkpoints()}
    overtaken = [name for name, verification in found.items() if verification.note == OVERTAKEN]
    assert overtaken == ["000000002-p", "000000003-p"]
    assert {each.depth for each in found.values()} == {"structure"}
    # All others were loaded in the end: there is no model in them, which only that can tell.
    assert sum(bool(each.not_portable) for each in found.values()) == UNVERIFIED + 1
    assert directory.quarantined() == []
    assert [each for each in running.pipeline.outcomes.notices() if OVERTAKEN in each]


def test_retention_is_applied_to_what_is_verified_and_planned_in_the_log_first(tmp_path):
    running = Running(tmp_path, plan(keep="last 2", when_busy="wait"))
    running.save(1, 2, 3, 4)
    running.finished()
    assert names(tmp_path) == ["000000003-p", "000000004-p"]
    log = events(tmp_path)
    first = next(each for each in log if each["kind"] == "removed")
    planned = [each for each in log[: log.index(first)] if each["kind"] == "retention"][-1]
    assert planned["remove"] == {first["name"]: first["reason"]}


def test_best_links_to_the_best_of_the_plan_that_names_a_metric(tmp_path):
    best = plan(keep="best 1 loss min", when_busy="wait")
    running = Running(tmp_path, best)
    for step, loss in ((1, 0.5), (2, 0.2), (3, 0.4)):
        running.save(step, loss=loss)
    directory = running.finished()
    assert directory.linked("best") == "000000002-p"
    assert directory.linked("latest") == "000000003-p"


def test_what_a_killed_session_left_unverified_is_verified_by_the_next(tmp_path):
    running = Running(tmp_path)
    running.save(1)
    directory = running.finished()
    (directory.checkpoints_path / "000000001-p" / "verification.json").unlink()
    Running(tmp_path).finished()
    assert directory.open("000000001-p").status == "verified"


def test_a_verification_that_reached_less_than_the_plan_asks_is_done_again(tmp_path):
    running = Running(tmp_path)
    running.save(1)
    running.finished()
    deeper = Running(tmp_path, plan(verify="structure")).finished()
    assert deeper.open("000000001-p").verification.depth == "structure"


def test_a_depth_that_could_not_be_reached_is_not_tried_in_every_session(tmp_path):
    running = Running(tmp_path)
    running.save(1)
    directory = running.finished()
    directory.record("000000001-p", Verification("bytes", 1.0, note="it needs your layers"))
    Running(tmp_path, plan(verify="structure")).finished()
    assert directory.open("000000001-p").verification.depth == "bytes"


def test_what_could_not_be_verified_stays_unverified_is_told_and_is_tried_by_the_next(tmp_path):
    asked = plan(verify="load", when_busy="wait", keep="last 1")
    running = Running(tmp_path, asked, limits={"verify_time": 0.001})
    running.save(1, 2)
    directory = running.finished()
    assert names(tmp_path) == ["000000001-p", "000000002-p"]  # what is unverified stays
    first = directory.open("000000001-p")
    assert first.status == "unverified"
    assert first.verification.note in events(tmp_path, "unverified")[0]["why"]
    (told,) = running.pipeline.outcomes.notices()
    assert told.startswith("p is saved and stays unverified: not loaded: no answer ")
    assert directory.linked("latest") is None
    Running(tmp_path).finished()
    assert directory.open("000000002-p").status == "verified"
