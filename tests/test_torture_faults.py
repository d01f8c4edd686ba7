"""The n-th operation fails: a dose, and that the rung finds what it looks for."""

import shutil

import pytest
from torture import faults, worlds

from keras_savekit.store import read_errors, syscalls

pytestmark = pytest.mark.slow


def test_whatever_call_fails_nothing_good_is_lost_and_the_user_is_told_once(tmp_path):
    (score,) = faults.run(seed=1, count=24, scratch=tmp_path)
    assert score.failures == ()
    assert score.tries == 24


def test_a_reader_that_believes_one_failure_of_the_disk_is_found(tmp_path, monkeypatch):
    base = tmp_path / "base"
    worlds.make_base(base)
    calls = faults.Fault("none", 10**9)
    faults.session(shutil.copytree(base, tmp_path / "counted", symlinks=True), calls)
    reads = [number for number, name in enumerate(calls.calls) if name in ("read", "pread")]
    monkeypatch.setattr(syscalls, "retry_once", lambda read: read())
    monkeypatch.setattr(read_errors, "system_failure", lambda error: 0)
    found = []
    with worlds.quiet():
        for number in reads[:6]:
            path = shutil.copytree(base, tmp_path / f"{number}", symlinks=True)
            found += faults.one(path, "EIO", number)
    assert any("is good and was set aside" in each for each in found)
