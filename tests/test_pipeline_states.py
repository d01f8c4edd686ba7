"""Saves, verifications, failures, prunings, resumes and crashes of a pipeline, in any order."""

import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_pipeline import plan, snapshot
from test_store_builders import Crash, crash_before_step, prepared
from training_builders import events

from keras_savekit.formats import checkpoint as checkpoint_files
from keras_savekit.policy.plan import Due, Policy
from keras_savekit.resume.record import select_and_record
from keras_savekit.save.pipeline import Pipeline
from keras_savekit.verify.depths import verify_files

PATIENCE = 20


def damaged(directory, snapshot, purpose, *rest):
    manifest = WRITE(directory, snapshot, purpose, *rest)
    path = directory / manifest.model_file
    found = bytearray(path.read_bytes())
    found[-1] ^= 1
    path.write_bytes(found)
    return manifest


def full_disk(directory, snapshot, purpose, *rest):
    (directory / "model.h5").write_bytes(b"half")
    raise OSError(28, "No space left on device")


WRITE = checkpoint_files.write
DISKS = {"good": WRITE, "damaging": damaged, "full": full_disk}


@contextmanager
def disk(kind):
    checkpoint_files.write = DISKS[kind]
    try:
        yield
    finally:
        checkpoint_files.write = WRITE


@contextmanager
def threads_that_die_quietly():
    before = threading.excepthook
    threading.excepthook = lambda given: (
        None if isinstance(given.exc_value, Crash) else before(given)
    )
    try:
        yield
    finally:
        threading.excepthook = before


class Sessions(RuleBasedStateMachine):
    """A run of sessions, each with a pipeline of its own.

    Kept beside it: the newest checkpoint that was ever verified. Whatever
    happens, it stays, whole, until a newer one is verified, and a resume finds
    it or a newer one.
    """

    @initialize(
        keep=st.sampled_from(["last 1", "best 1 loss min", "newer_than 1s", "size 1B", "all"]),
        limits=st.sampled_from([{}, {"disk": "60kB"}]),
    )
    def begin(self, keep, limits):
        self.place = Path(tempfile.mkdtemp())
        self.plans = [plan(name=name, keep=keep, when_busy="wait") for name in "ab"]
        self.policy = Policy(plans=self.plans, limits=limits)
        self.step, self.newest = 0, None
        self.start()

    def teardown(self):
        if hasattr(self, "place"):
            self.pipeline.close()
            shutil.rmtree(self.place)

    def start(self):
        """A new process: what a session does when training begins."""
        self.directory = prepared(self.place / "run")
        self.directory.sweep()
        found = select_and_record([self.directory], 1.0).content
        if self.newest is not None:
            assert found is not None
            newest = int(self.newest[:9])
            assert found.checkpoint.manifest.moment.step >= newest
        self.note()
        self.pipeline = Pipeline(self.directory, self.policy, "run", lambda: 1.0)
        self.settle()

    def settle(self):
        """Wait until the background has nothing left to do, or is dead."""
        deadline = time.monotonic() + PATIENCE
        workers = self.pipeline._writer, *self.pipeline._verifier.workers
        while any(each.pending and each._thread.is_alive() for each in workers):
            assert time.monotonic() < deadline, "the background hangs"
            time.sleep(0.001)

    def note(self):
        """Out of the event log: what is removed at once was verified all the same."""
        log = self.directory.path / "events.jsonl"
        told = events(self.directory.path, "verified") if log.exists() else []
        self.newest = max((each["name"] for each in told), default=None)

    @rule(
        kind=st.sampled_from([*DISKS, "good", "good"]),
        which=st.integers(0, 1),
        loss=st.floats(0, 1),
        crash=st.none() | st.integers(0, 120),
    )
    def save(self, kind, which, loss, crash):
        self.step += 1
        due = Due(self.plans[which], ("asked",))
        given = snapshot(self.step, loss=loss)
        if crash is None:
            with disk(kind):
                self.pipeline.save(given, due)
                self.settle()
            self.pipeline.outcomes.problems()
            self.note()
            return
        with threads_that_die_quietly(), disk(kind):
            with crash_before_step(crash):
                try:
                    self.pipeline.save(given, due)
                    self.settle()
                    self.pipeline.close()
                except Crash:
                    pass
            for worker in (self.pipeline._writer, *self.pipeline._verifier.workers):
                worker.close()
        self.note()
        self.start()

    @rule()
    def stop_and_resume(self):
        self.pipeline.close()
        self.note()
        self.start()

    @invariant()
    def the_newest_verified_checkpoint_is_there_and_whole(self):
        if getattr(self, "newest", None) is None:
            return
        path = self.directory.checkpoints_path / self.newest
        assert verify_files(path, "bytes", 1.0).findings == ()


TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    deadline=None, derandomize=True, max_examples=15, stateful_step_count=20
)
