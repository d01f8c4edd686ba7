"""A thread that does jobs one after another."""

import threading

import pytest

from keras_savekit.save.worker import Worker

TIMEOUT = 10


class Held:
    """A worker whose jobs wait until they are let go."""

    def __init__(self):
        self.go = threading.Event()
        self.begun = threading.Event()
        self.done = []
        self.failed = []
        self.worker = Worker("tested", self.do, lambda job, error: self.failed.append((job, error)))

    def do(self, job):
        self.begun.set()
        assert self.go.wait(TIMEOUT)
        if isinstance(job, Exception):
            raise job
        self.done.append(job)

    def busy_with(self, job):
        self.worker.submit(job, key="", capacity=9, wait=False)
        assert self.begun.wait(TIMEOUT)


@pytest.fixture
def held():
    held = Held()
    yield held
    held.go.set()
    held.worker.close()


def test_jobs_are_done_in_order_on_a_thread_with_a_name(held):
    held.busy_with(1)
    assert "tested" in {thread.name for thread in threading.enumerate()}
    for job in (2, 3, 4):
        held.worker.submit(job, key="", capacity=9, wait=False)
    held.go.set()
    held.worker.join()
    assert held.done == [1, 2, 3, 4]


def test_no_thread_runs_before_the_first_job(held):
    assert "tested" not in {thread.name for thread in threading.enumerate()}


def test_when_the_queue_is_full_the_newest_job_replaces_the_oldest_of_its_own_key(held):
    held.busy_with(1)
    assert held.worker.submit("a1", key="a", capacity=1, wait=False) is None
    assert held.worker.submit("b1", key="b", capacity=1, wait=False) is None
    assert held.worker.submit("a2", key="a", capacity=1, wait=False) == "a1"
    held.go.set()
    held.worker.join()
    assert held.done == [1, "b1", "a2"]


def test_who_waits_for_room_goes_on_when_there_is_some(held):
    held.busy_with(1)
    held.worker.submit("a1", key="a", capacity=1, wait=False)
    submitted = threading.Event()

    def submit():
        held.worker.submit("a2", key="a", capacity=1, wait=True)
        submitted.set()

    threading.Thread(target=submit).start()
    assert not submitted.wait(0.05)
    held.go.set()
    assert submitted.wait(TIMEOUT)
    held.worker.join()
    assert held.done == [1, "a1", "a2"]


def test_a_job_that_fails_is_told_and_does_not_stop_the_next(held):
    error = OSError("no space")
    held.busy_with(error)
    held.worker.submit(2, key="", capacity=9, wait=False)
    held.go.set()
    held.worker.join()
    assert held.failed == [(error, error)]
    assert held.done == [2]


def test_closing_finishes_every_job_and_takes_no_more(held):
    held.busy_with(1)
    held.worker.submit(2, key="", capacity=9, wait=False)
    assert held.worker.pending == 2
    held.go.set()
    held.worker.close()
    assert held.done == [1, 2]
    assert held.worker.pending == 0
    with pytest.raises(RuntimeError, match="tested is closed"):
        held.worker.submit(3, key="", capacity=9, wait=False)


def test_who_waits_is_told_what_is_left_and_waits_no_longer_than_asked(held):
    held.busy_with(1)
    held.worker.submit(2, key="", capacity=9, wait=False)
    assert not held.worker.join(patience=0)
    left = []
    held.go.set()
    assert held.worker.join(TIMEOUT, left.append)
    assert left in ([0], [1, 0])  # it may have been quicker than we look
    assert held.worker.join(patience=0)


def test_what_is_dropped_is_not_done(held):
    held.busy_with(1)
    for job in (2, 3):
        held.worker.submit(job, key="", capacity=9, wait=False)
    assert held.worker.drop() == [2, 3]
    held.go.set()
    held.worker.join()
    assert held.done == [1]


def test_when_the_limit_is_lifted_who_waits_for_room_is_let_in(held):
    held.busy_with(1)
    held.worker.submit(2, key="", capacity=1, wait=True)
    submits = threading.Thread(
        target=held.worker.submit, args=(3, "", 1), kwargs={"wait": True}, daemon=True
    )
    submits.start()
    held.worker.lift()
    submits.join(TIMEOUT)
    assert not submits.is_alive()
    held.go.set()
    held.worker.join()
    assert held.done == [1, 2, 3]  # and none took another's place
