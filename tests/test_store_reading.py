"""Pinned checkpoints, those being read, and a machine that never loses the newest verified one."""

import fcntl
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_store_builders import Crash, add, crash_before_step, prepared, tiny_checkpoint

from keras_savekit.errors import CheckpointError
from keras_savekit.policy.rules.prune import prune
from keras_savekit.policy.rules.registry import read_rules
from keras_savekit.save import retention
from keras_savekit.store import checkpoint_lock
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.depths import verify_files

GOOD = Verification("bytes", 1.0)
BAD = Verification("bytes", 1.0, (Finding("digest", "a.bin", "is other than promised"),))


@pytest.fixture
def run(tmp_path):
    run = prepared(tmp_path / "run")
    add(run, 1)
    return run


NAME = "000000001-latest"


def test_a_pinned_checkpoint_says_so_and_is_as_good_as_before(run):
    run.pin(NAME, pinned=True)
    run.pin(NAME, pinned=True)
    assert run.open(NAME).pinned
    assert verify_files(run.checkpoints_path / NAME, "bytes", 1.0).findings == ()
    run.pin(NAME, pinned=False)
    run.pin(NAME, pinned=False)
    assert not run.open(NAME).pinned


def test_what_is_no_checkpoint_cannot_be_pinned_or_read(run):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        run.pin("000000009-latest", pinned=True)
    with (
        pytest.raises(CheckpointError, match="no such checkpoint"),
        checkpoint_lock.hold_shared(run.path / "gone"),
    ):
        pass


def test_a_checkpoint_is_not_removed_while_someone_reads_it(run):
    with run.reading(NAME) as path, run.reading(NAME):
        assert run.being_read(NAME)
        assert not run.remove(NAME)
        assert path.is_dir()
    assert not run.being_read(NAME)
    assert run.remove(NAME)
    assert run.checkpoints() == []


def _read(path, begun, end):
    with RunDirectory(path).reading(NAME):
        begun.set()
        end.wait(30)


def test_a_reader_in_another_process_counts_until_it_ends_however_it_ends(run):
    context = multiprocessing.get_context("spawn")
    begun, end = context.Event(), context.Event()
    reader = context.Process(target=_read, args=(run.path, begun, end))
    reader.start()
    try:
        assert begun.wait(30)
        assert not run.remove(NAME)
    finally:
        reader.kill()
        reader.join(30)
    assert run.remove(NAME)


def test_what_is_just_being_removed_cannot_be_read(run):
    descriptor = os.open(run.checkpoints_path / NAME, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(CheckpointError, match="is being removed"), run.reading(NAME):
        pass
    os.close(descriptor)


def test_where_there_are_no_such_locks_reading_and_removing_go_on(run, monkeypatch):
    def refuse(*arguments):
        raise OSError(95, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with run.reading(NAME):
        assert not run.being_read(NAME)
    assert run.remove(NAME)


class Runs(RuleBasedStateMachine):
    """Saves, verifies, fails, pins, reads, prunes, resumes and crashes, in any order.

    Kept beside it: the newest checkpoint that was ever verified. Whatever
    happens, it stays, whole, until a newer one is verified or it fails itself.
    """

    @initialize(
        rules=st.sampled_from(
            ["last 1", "best 1 loss min", "newer_than 1s", "size 1B", "every 9 steps", "all"]
        )
    )
    def begin(self, rules):
        self.path = Path(tempfile.mkdtemp())
        self.rules = {"latest": read_rules(rules)}
        self.run = prepared(self.path / "run")
        self.step = 0
        self.newest: str | None = None
        self.pinned: set[str] = set()

    def teardown(self):
        if hasattr(self, "path"):
            shutil.rmtree(self.path)

    def names(self, *status):
        return [each.name for each in self.run.checkpoints() if each.status in status]

    def crashing(self, number, action):
        """Do it; at most `number` calls of the system get through, then a new process resumes."""
        try:
            with crash_before_step(number):
                action()
        except Crash:
            self.resume()

    @rule()
    def resume(self):
        self.run = prepared(self.path / "run")
        self.run.sweep()

    @rule(crash=st.integers(0, 60))
    def save(self, crash):
        self.step += 1
        self.crashing(crash, lambda: add(self.run, self.step, build=tiny_checkpoint))

    @precondition(lambda self: self.names("unverified"))
    @rule(data=st.data(), crash=st.integers(0, 40))
    def verify(self, data, crash):
        name = data.draw(st.sampled_from(self.names("unverified")))

        def record():
            self.run.record(name, GOOD)
            self.run.link("latest", max(self.names("verified")))

        self.crashing(crash, record)
        if name in self.names("verified"):
            self.newest = max(name, self.newest or "")

    @precondition(lambda self: self.names("unverified"))
    @rule(data=st.data(), crash=st.integers(0, 40))
    def fail(self, data, crash):
        name = data.draw(st.sampled_from(self.names("unverified")))
        self.crashing(crash, lambda: self.run.quarantine(name, BAD))
        if name in self.names("failed"):  # the reason was written, the rest comes next time
            self.run.quarantine(name, BAD)

    @precondition(lambda self: self.names("verified"))
    @rule(data=st.data(), pinned=st.booleans())
    def pin(self, data, pinned):
        name = data.draw(st.sampled_from(self.names("verified")))
        self.run.pin(name, pinned=pinned)
        (self.pinned.add if pinned else self.pinned.discard)(name)

    @rule(crash=st.integers(0, 60), data=st.data())
    def prune(self, crash, data):
        there = self.names("verified", "unverified")
        read = data.draw(st.sampled_from([None, *there]))

        def apply():
            records = [
                retention.record_of(each, busy=self.run.being_read(each.name))
                for each in self.run.checkpoints()
            ]
            for name in prune(records, self.rules, now=1e9).remove:
                self.run.remove(name)

        if read is None:
            self.crashing(crash, apply)
        else:
            with self.run.reading(read):
                apply()
            assert read in self.names("verified", "unverified")

    @invariant()
    def the_newest_verified_checkpoint_is_there_and_whole(self):
        if getattr(self, "newest", None) is None:
            return
        assert self.newest in self.names("verified")
        path = self.run.checkpoints_path / self.newest
        assert verify_files(path, "bytes", 1.0).findings == ()

    @invariant()
    def what_is_pinned_is_there_and_links_lead_to_checkpoints(self):
        if not hasattr(self, "pinned"):
            return
        assert self.pinned <= set(self.names("verified"))
        link = self.run.path / "latest"
        assert not link.is_symlink() or link.is_dir()


TestRuns = Runs.TestCase
TestRuns.settings = settings(
    deadline=None, derandomize=True, max_examples=25, stateful_step_count=30
)
