"""File systems that lack something, and processes that are told apart."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_store_builders import add, prepared, tiny_checkpoint

from keras_savekit.errors import DirectoryError, DirectoryInUseError, SavekitWarning
from keras_savekit.store import syscalls
from keras_savekit.store.atomic import make_scratch, publish, publish_file
from keras_savekit.store.event_log import EventLog
from keras_savekit.store.prepare import missing_features
from keras_savekit.store.process_id import this_process
from keras_savekit.store.run_lock import RunLock
from keras_savekit.store.run_writer import RunWriter

LACKING = [errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.ENOSYS, errno.ENOLCK]


@contextmanager
def refusing(code, *names, calls=None):
    """Every call of these names fails; the others are made."""

    def watcher(name, call, *arguments):
        if calls is not None:
            calls.append(name)
        if name in names:
            raise OSError(code, os.strerror(code))
        return call(*arguments)

    with syscalls.watched(watcher):
        yield


@pytest.mark.parametrize("code", LACKING)
def test_a_file_system_without_sync_links_or_locks_still_keeps_checkpoints(tmp_path, code):
    with (
        refusing(code, "fsync", "symlink", "flock"),
        RunWriter.acquire(prepared(tmp_path)) as run,
    ):
        missing = missing_features(run)
        one, two = add(run, 1), add(run, 2)
        run.link("latest", one)
        run.link("latest", two)
        assert run.linked("latest") == two
        assert run.sweep() == []
        run.remove(two)
        assert run.linked("latest") is None
        assert [each.name for each in run.checkpoints()] == [one]
    assert [feature.partition(":")[0] for feature in missing] == [
        "syncing of files",
        "syncing of directories",
        "links",
        "locks",
    ]


def test_a_file_system_that_lacks_nothing_is_not_complained_about(tmp_path):
    with RunWriter.acquire(prepared(tmp_path)) as run:
        assert missing_features(run) == ()


def test_a_text_for_a_link_is_replaced_by_a_link_once_there_are_some(tmp_path):
    run = prepared(tmp_path)
    name = add(run, 1)
    with refusing(errno.EPERM, "symlink"):
        run.link("best", name)
    assert (tmp_path / "best").read_text() == f"checkpoints/{name}\n"
    run.link("best", add(run, 2))
    assert (tmp_path / "best").is_symlink()


def test_what_the_file_system_lacks_is_reported_when_fit_begins(tmp_path):
    from training_builders import fit, model

    import keras_savekit as sk

    policy = {"plans": [{"name": "p", "when": "every 1 epochs"}], "directory": str(tmp_path)}
    with (
        refusing(errno.EPERM, "symlink"),
        pytest.warns(SavekitWarning, match="has no\n  links: latest and best are text") as told,
    ):
        fit(model(), sk.SaveKit(policy), epochs=1)
    assert len(told) == 1


def test_a_directory_that_cannot_be_renamed_is_told_before_training(tmp_path):
    with (
        refusing(errno.ENOSYS, "rename"),
        pytest.raises(DirectoryError, match="cannot rename a directory"),
    ):
        prepared(tmp_path)


def note(directory, **changes):
    holder = dataclasses.asdict(this_process()) | {"started": 1.0} | changes
    (directory / ".lock.holder").write_text(json.dumps(holder))


DEAD = {
    "ended": {"pid": 2**22 + 1},
    "number given to another": {"began": "1"},
    "before the machine's last boot": {"boot": "other", "machine": "m"},
}


@pytest.mark.parametrize("how", DEAD)
def test_without_locks_that_of_a_dead_process_is_taken_over(tmp_path, monkeypatch, how):
    here = dataclasses.replace(this_process(), machine="m")
    monkeypatch.setattr("keras_savekit.store.process_id.this_process", lambda: here)
    note(tmp_path, **DEAD[how])
    with refusing(errno.ENOLCK, "flock"), RunLock(tmp_path) as lock:
        assert lock.held
    assert not (tmp_path / ".lock.holder").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "in use by this process"),
        ({"host": "elsewhere", "boot": "b", "machine": "o"}, "delete .lock.holder there"),
        ({"numbers": "pid:[1]"}, "delete .lock.holder there"),
    ],
)
def test_without_locks_that_of_a_living_or_unknown_process_is_heeded(tmp_path, changes, message):
    note(tmp_path, **changes)
    with refusing(errno.ENOLCK, "flock"), pytest.raises(DirectoryInUseError, match=message):
        RunLock(tmp_path).acquire()


ORPHAN = """
import os, sys, time, pathlib
from keras_savekit.store.run_lock import RunLock
lock = RunLock(pathlib.Path(sys.argv[1]))
lock.acquire()
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


def test_a_lock_that_a_dead_process_left_to_its_child_is_told_as_such(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        try:
            with pytest.raises(
                DirectoryInUseError, match=f"a child that process {parent.pid} on .* left"
            ):
                RunLock(tmp_path).acquire()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_sync_that_fails_is_not_tried_again(tmp_path):
    scratch = make_scratch(tmp_path / "x")
    tiny_checkpoint(scratch)
    calls = []
    with (
        refusing(errno.EIO, "fsync", calls=calls),
        pytest.raises(DirectoryError, match="cannot publish: Input/output error"),
    ):
        publish(scratch, tmp_path / "x")
    assert calls.count("fsync") == 1
    assert "rename" not in calls


def test_what_is_not_certain_to_stay_is_not_published(tmp_path):
    scratch = make_scratch(tmp_path / "x")
    tiny_checkpoint(scratch)
    calls = []

    def last_sync(name, call, *arguments):
        calls.append(name)
        if name == "fsync" and "rename" in calls:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return call(*arguments)

    with syscalls.watched(last_sync), pytest.raises(DirectoryError, match="cannot publish"):
        publish(scratch, tmp_path / "x")
    assert scratch.is_dir()
    assert not (tmp_path / "x").exists()


def test_a_file_that_is_replaced_keeps_who_may_read_it(tmp_path):
    old, new = tmp_path / "model.h5", tmp_path / "new"
    old.touch(0o600)
    new.touch(0o644)
    publish_file(new, old)
    assert stat.S_IMODE(old.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("mode", "readable"), [(0o755, True), (0o711, False), (0o700, False)])
def test_others_read_checkpoints_only_where_they_may_read_the_directory(mode, readable):
    home = Path(tempfile.mkdtemp())
    before = os.umask(0o022)
    try:
        home.chmod(0o755)
        (home / "run").mkdir()
        (home / "run").chmod(mode)
        run = prepared(home / "run")
        path = run.checkpoints_path / add(run, 1) / "a.bin"
        nobody = subprocess.run(["cat", path], user=65534, capture_output=True, check=False)
        assert (nobody.returncode == 0) == readable
    finally:
        os.umask(before)
        shutil.rmtree(home)


def test_several_torn_lines_in_a_row_and_lost_blocks_leave_the_log_readable(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("first")
    with log.path.open("ab") as file:
        file.write(b'{"ti\n{"time": 1, "ki')
    log.append("second")
    with log.path.open("ab") as file:
        file.write(bytes(40) + b'"torn"}\n')
    log.append("third")
    assert [each["kind"] for each in log.read()] == ["first", "second", "third"]
