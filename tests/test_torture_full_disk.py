"""A full disk: a dose, and that the rung finds what it looks for."""

import pytest
from torture import full_disk, worlds

from keras_savekit.save import pipeline

pytestmark = pytest.mark.slow


def test_a_full_disk_costs_the_save_under_way_and_nothing_else(tmp_path):
    scores = full_disk.run(seed=1, count=8, scratch=tmp_path)
    assert [score.failures for score in scores] == [(), ()]
    assert sum(score.tries for score in scores) >= 4  # half of it where nothing can be mounted


def test_a_failed_save_that_keeps_its_room_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "discard", lambda scratch: None)
    with worlds.quiet():
        found = list(full_disk.one(tmp_path / "run", "RLIMIT_FSIZE", 5000))
    assert any("still takes room" in each for each in found)
