"""A thread that does jobs one after another."""

import threading

import pytest

from keras_savekit.save.worker import Worker

TIMEOUT = 10


class Blocked:
    """A worker whose jobs wait until `go` is set."""

    def __init__(self, limit=None):
        self.go = threading.Event()
        self.begun = threading.Event()
        self.done = []
        self.failed = []
        self.worker = Worker("tested", self.do, self.fail, limit)

    def do(self, job):
        self.begun.set()
        assert self.go.wait(TIMEOUT)
        if isinstance(job, Exception):
            raise job
        self.done.append(job)

    def fail(self, job, error):
        self.failed.append((job, error))

    def start(self, job):
        """Have the worker begin a job."""
        self.worker.submit(job)
        assert self.begun.wait(TIMEOUT)

    def finish(self):
        self.go.set()
        self.worker.join()
        return self.done


@pytest.fixture
def blocked():
    blocked = Blocked()
    yield blocked
    blocked.go.set()
    blocked.worker.close()


@pytest.fixture
def bounded():
    """One job of each key may wait."""
    bounded = Blocked(limit=1)
    yield bounded
    bounded.go.set()
    bounded.worker.close()


def submit_on_a_thread(worker, *arguments):
    """Submit a job; the event is set when `submit` has returned."""
    returned = threading.Event()

    def submit():
        worker.submit(*arguments)
        returned.set()

    threading.Thread(target=submit, daemon=True).start()
    return returned


def test_jobs_are_done_in_order_on_a_thread_with_a_name(blocked):
    blocked.start(1)
    assert "tested" in {thread.name for thread in threading.enumerate()}
    for job in (2, 3, 4):
        blocked.worker.submit(job)
    assert blocked.finish() == [1, 2, 3, 4]


def test_no_thread_runs_before_the_first_job(blocked):
    assert "tested" not in {thread.name for thread in threading.enumerate()}


def test_when_the_queue_is_full_the_newest_job_replaces_the_oldest_of_its_own_key(bounded):
    bounded.start(1)
    assert bounded.worker.submit("a1", "a", "replace") is None
    assert bounded.worker.submit("b1", "b", "replace") is None
    assert bounded.worker.submit("a2", "a", "replace") == "a1"
    assert bounded.finish() == [1, "b1", "a2"]


def test_a_job_that_waits_for_room_is_taken_when_there_is_some(bounded):
    bounded.start(1)
    bounded.worker.submit("a1", "a")
    returned = submit_on_a_thread(bounded.worker, "a2", "a", "wait")
    assert not returned.wait(0.05)
    bounded.go.set()
    assert returned.wait(TIMEOUT)
    assert bounded.finish() == [1, "a1", "a2"]


def test_a_job_that_may_exceed_the_limit_neither_waits_nor_replaces(bounded):
    bounded.start(1)
    for job in (2, 3, 4):
        assert bounded.worker.submit(job, when_full="exceed") is None
    assert bounded.finish() == [1, 2, 3, 4]


def test_without_a_limit_every_waiting_job_is_taken_and_none_is_replaced(bounded):
    bounded.start(1)
    bounded.worker.submit(2)
    returned = submit_on_a_thread(bounded.worker, 3)
    assert not returned.wait(0.05)
    bounded.worker.limit = None
    assert returned.wait(TIMEOUT)
    assert bounded.finish() == [1, 2, 3]


def test_a_job_that_fails_is_reported_and_does_not_stop_the_next(blocked):
    error = OSError("no space")
    blocked.start(error)
    blocked.worker.submit(2)
    assert blocked.finish() == [2]
    assert blocked.failed == [(error, error)]


def test_closing_finishes_every_job_and_takes_no_more(blocked):
    blocked.start(1)
    blocked.worker.submit(2)
    assert blocked.worker.pending == 2
    assert not blocked.worker.close(patience=0)
    blocked.go.set()
    assert blocked.worker.close()
    assert blocked.done == [1, 2]
    assert blocked.worker.pending == 0
    with pytest.raises(RuntimeError, match="tested is closed"):
        blocked.worker.submit(3)


def test_a_join_reports_progress_and_waits_no_longer_than_its_patience(blocked):
    blocked.start(1)
    blocked.worker.submit(2)
    assert not blocked.worker.join(patience=0)
    counts = []
    blocked.go.set()
    assert blocked.worker.join(TIMEOUT, lambda: counts.append(blocked.worker.pending))
    assert counts in ([0], [1, 0], [0, 0])  # the worker may be quicker than the report
    assert blocked.worker.join(patience=0)


def test_cancelled_jobs_are_returned_and_not_done(blocked):
    blocked.start(1)
    for job in (2, 3):
        blocked.worker.submit(job)
    assert blocked.worker.cancel() == [2, 3]
    assert blocked.finish() == [1]
