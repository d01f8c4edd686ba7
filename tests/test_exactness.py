"""A small, seeded dose of `make exact`: killed with SIGKILL and resumed, bit for bit."""

import random

import pytest
from exactness import DATA, MODELS, POINTS, Case, difference, disturbed, undisturbed

pytestmark = pytest.mark.slow


def dose(seed):
    """Each kind of data once, with models and points drawn by the seed."""
    drawn = random.Random(seed)
    return [
        Case(model, data, point)
        for model, data, point in zip(
            drawn.sample(MODELS, len(DATA)), DATA, drawn.sample(POINTS, len(DATA)), strict=True
        )
    ]


@pytest.mark.parametrize("case", dose(seed=4), ids=lambda case: "-".join(vars(case).values()))
def test_a_killed_training_ends_where_the_undisturbed_one_ends(tmp_path, case):
    assert difference(case, undisturbed(case, tmp_path), disturbed(case, tmp_path)) == ""
