"""Crash states: a dose, and that the rung finds what it looks for."""

import random

import pytest
from torture import crashes, worlds

from keras_savekit.store import atomic

pytestmark = pytest.mark.slow


def test_a_loss_of_power_leaves_the_old_or_the_new(tmp_path):
    (score,) = crashes.run(seed=1, count=24, scratch=tmp_path)
    assert score.failures == ()
    assert score.tries == 24


def just_published(base, scratch):
    """A few states at the moment when a checkpoint has its name."""
    worlds.make_base(base)
    recording = crashes.record(base)
    named = next(
        place
        for place, each in enumerate(recording.operations)
        if isinstance(each, crashes.Names)
        and any(name == "000000004-latest" and inode for _, name, inode in each.changes)
    )
    number = named + 2  # and its directory is synced
    fates = list(crashes.fates(recording.operations[:number], random.Random(1)))
    points = [(number, fate) for fate in fates[-8:]]
    return crashes.look(recording, points, len(points), scratch)


def test_what_is_published_is_certain(tmp_path):
    assert just_published(tmp_path / "base", tmp_path).failures == ()


def test_a_rename_before_its_directory_is_synced_is_found(tmp_path, monkeypatch):
    sync = atomic.sync_directory

    def forgetting(path):
        return path.name.startswith(".scratch-") or sync(path)

    monkeypatch.setattr(atomic, "sync_directory", forgetting)
    failures = just_published(tmp_path / "base", tmp_path).failures
    assert any("is listed and no checkpoint" in each for each in failures)


def test_a_file_that_is_not_synced_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_sync_file", lambda path: None)
    assert just_published(tmp_path / "base", tmp_path).failures
