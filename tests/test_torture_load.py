"""A small dose of load, and proof that what it could break would be seen."""

import pytest
from test_store_builders import add, prepared
from torture import load

GOOD = {"memory": [1000, 1000], "waiting": 2}


@pytest.fixture
def run(tmp_path):
    run = prepared(tmp_path / "run")
    for step in range(1, 5):
        name = add(run, step, "p")
        for kind in ("saved", "verified"):
            run.events.append(kind, name=name)
    run.events.append("removed", name="000000001-p")
    run.remove("000000001-p")
    return run


def test_a_training_in_order_is_not_accused(run):
    assert load.wrong_with(run.path, GOOD, 4) == []
    assert load.slow_list(run.path) == ""


@pytest.mark.parametrize(
    ("damage", "changes", "said"),
    [
        (lambda run: None, {"memory": [1000, 2 * load.GROWTH]}, "memory grew"),
        (lambda run: None, {"waiting": 99}, "99 checkpoints were waiting"),
        (lambda run: add(run, 5, "p"), {}, "`last 3` left"),
        (lambda run: run.remove("000000003-p"), {}, "`last 3` left"),
        (lambda run: run.events.append("failed", name="x"), {}, "there are"),
    ],
)
def test_what_load_may_not_come_to_is_seen(run, damage, changes, said):
    damage(run)
    (found,) = load.wrong_with(run.path, GOOD | changes, 4)
    assert said in found


def test_a_list_that_is_slow_or_fails_is_seen(run, monkeypatch):
    assert "ended with 2" in load.slow_list(run.path / "nowhere")
    monkeypatch.setattr(load, "LISTED", 0)
    assert "takes" in load.slow_list(run.path)


@pytest.mark.slow
def test_load_breaks_no_promise(tmp_path):
    scores = load.run(1, 20, tmp_path)
    assert [each.failures for each in scores] == [[]] * 4
    assert all(each.tries > 0 for each in scores)
