"""A small dose of SIGKILL, and proof that what it could break would be seen."""

import shutil

import pytest
from test_store_builders import add, fake_checkpoint, prepared
from torture import kills

from keras_savekit.store.manifest import Verification

FIRST, SECOND = "000000001-latest", "000000002-latest"


@pytest.fixture
def run(tmp_path):
    run = prepared(tmp_path / "run")
    for step in (1, 2):
        name = add(run, step, build=fake_checkpoint)
        run.events.append("saved", name=name)
        run.record(name, Verification("bytes", 1.0))
        run.link("latest", name)
    return run


def test_a_directory_in_order_is_not_accused(run):
    assert kills.wrong_with(run.path) == []
    run.events.append("retention", keep={}, remove={FIRST: "not in last 1"})
    run.remove(FIRST)
    assert kills.wrong_with(run.path) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: run.remove(FIRST), f"{FIRST} was saved and is lost"),
        (lambda run: shutil.rmtree(run.checkpoints_path / SECOND), "the newest listed is 0000"),
        (lambda run: (run.checkpoints_path / FIRST / "model.h5").unlink(), "not whole"),
        (lambda run: (run.checkpoints_path / FIRST / "manifest.json").unlink(), "no checkpoint"),
        (lambda run: run.quarantine(FIRST, Verification("bytes", 1.0)), "was set aside"),
        (lambda run: (run.checkpoints_path / SECOND).rename(run.path / "away"), "`latest`"),
    ],
)
def test_what_a_kill_may_not_leave_behind_is_seen(run, damage, said):
    damage(run)
    assert any(said in each for each in kills.wrong_with(run.path))


@pytest.mark.slow
def test_killed_trainings_leave_whole_checkpoints_and_end_as_if_nothing_had_been(tmp_path):
    scores = kills.run(5, 3, tmp_path)
    assert [each.failures for each in scores] == [(), (), ()]
    assert [each.tries > 0 for each in scores] == [True, True, True]
