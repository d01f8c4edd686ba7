"""One writer to a directory."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from keras_savekit.errors import DirectoryError, DirectoryInUseError
from keras_savekit.store import syscalls
from keras_savekit.store.run_lock import RunLock

HOLD = """
import sys, time, pathlib
from keras_savekit.store.run_lock import RunLock
lock = RunLock(pathlib.Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_vanishes_with_its_process_however_that_ends(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        lock = RunLock(tmp_path)
        message = (
            rf"in use by process {other.pid} on .+, since \d{{4}}-.* UTC "
            rf"\[{re.escape(str(tmp_path))}\]\n  choose another directory or stop that one"
        )
        with pytest.raises(DirectoryInUseError, match=message):
            lock.acquire()
        other.send_signal(signal.SIGKILL)
        other.wait()
        with lock:
            assert lock.held


def test_the_same_process_cannot_take_it_twice(tmp_path):
    lock = RunLock(tmp_path, clock=lambda: 0.0)
    with lock:
        for each in (lock, RunLock(tmp_path)):
            with pytest.raises(
                DirectoryInUseError, match=rf"this process \({os.getpid()}\) already, since 1970"
            ):
                each.acquire()
        assert lock.held
    assert not lock.held
    with RunLock(tmp_path):
        pass


def test_one_thread_may_give_back_what_another_took(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    with RunLock(tmp_path):
        pass
    lock.release()  # once more does nothing


@pytest.mark.parametrize("holder", ["", "{}", '{"pid": "x"}', "[1]", '{"started": 1e99}'])
def test_an_unreadable_note_about_the_holder_does_not_matter(tmp_path, holder):
    with RunLock(tmp_path):
        (tmp_path / ".lock.holder").write_text(holder)
        with pytest.raises(DirectoryInUseError, match="in use by another process"):
            RunLock(tmp_path).acquire()


def test_a_directory_that_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(DirectoryError, match="cannot lock the directory: No such file"):
        RunLock(tmp_path / "missing").acquire()


def without_flock(name, call, *arguments):
    """Stands for the calls on a file system without locks."""
    if name == "flock":
        raise OSError(errno.EOPNOTSUPP, "not supported")
    return call(*arguments)


def test_without_locks_the_note_of_a_process_that_ended_is_replaced(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        note = (tmp_path / ".lock.holder").read_bytes()
        other.kill()
        other.wait()
    (tmp_path / ".lock.holder").write_bytes(note)
    with syscalls.watched(without_flock), RunLock(tmp_path) as lock:
        assert "only on this machine" in lock.limitation
        assert (tmp_path / ".lock.holder").read_bytes() != note
        with pytest.raises(DirectoryInUseError, match="this process"):
            RunLock(tmp_path).acquire()
