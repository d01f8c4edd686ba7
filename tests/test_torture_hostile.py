"""The small dose of the rung `hostile`, and that it finds faults where there are any."""

import random

import pytest
from torture import hostile

pytestmark = pytest.mark.slow


def test_hostile_input_gives_one_clear_error_and_touches_nothing(tmp_path):
    (score,) = hostile.run(seed=1, count=hostile.FULL // 10, scratch=tmp_path)  # each once
    assert score.failures == ()


def test_the_rung_sees_every_way_to_break_the_promise(tmp_path):
    outside = tmp_path / "master" / "outside"
    outside.mkdir(parents=True)
    (outside / "secret").write_bytes(b"x")
    world = hostile.fresh(tmp_path / "home", tmp_path / "master", random.Random(1))

    def harmful(_):
        yield "raises", lambda: {}["x"]
        yield "accepts", lambda: hostile.refused(int)
        yield "shows", lambda: hostile.obeyed("\x1b[2J")
        yield "writes", lambda: (world.outside / "new").write_text("") and ""
        yield "reads", lambda: (world.outside / "secret").read_bytes() and ""

    found = "\n".join(hostile.tried(world, harmful, hostile.RequestMonitor()))
    for each in ("raises: KeyError", "accepts: was not", "shows: ", "was outside: open", "left"):
        assert each in found
    assert "secret" in found
