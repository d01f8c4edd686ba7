"""Jumps of the clock: a dose, and that the rung finds what it looks for."""

import pytest
from torture import time_jumps

pytestmark = pytest.mark.slow


def test_jumps_of_the_clock_disturb_nothing(tmp_path):
    scores = time_jumps.run(seed=1, count=10, scratch=tmp_path)
    assert [score.failures for score in scores] == [(), ()]


def test_retention_by_the_wall_clock_as_it_is_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(time_jumps, "steady", lambda wall, clock: wall)
    monkeypatch.setattr(time_jumps, "KEEPS", ("newer_than 1h", "last 2"))
    kept, _ = time_jumps.run(seed=1, count=10, scratch=tmp_path)
    assert kept.failures
