"""The small dose of the rung `corruption`, and that it finds faults where there are any."""

import pytest
from torture import corruption

from keras_savekit.resume import select
from keras_savekit.store.manifest import Verification

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("corruption")


def test_damage_is_found_and_a_resume_falls_back(scratch):
    # Each kind of damage to each format, once.
    count = len(corruption.FORMS) * len(corruption.DAMAGES)
    for score in corruption.run(seed=1, count=count, scratch=scratch):
        assert score.tries > 0
        assert score.failures == ()


def test_the_rung_sees_a_verification_that_looks_at_nothing(scratch, monkeypatch):
    blind = lambda *_: Verification("structure", 1.0)  # noqa: E731
    monkeypatch.setattr(corruption, "verify_files", blind)
    monkeypatch.setattr(select, "check_files", blind)
    scores = corruption.run(seed=1, count=15, scratch=scratch)
    assert len(scores[0].failures) >= 10
    assert scores[1].failures
