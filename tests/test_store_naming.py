"""Names of checkpoints."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_savekit.store.naming import KINDS, CheckpointName, Leftover

laws = settings(derandomize=True, deadline=None)
steps = st.integers(0, 10**18 - 1)
plans = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", fullmatch=True)


@laws
@given(steps, plans, st.integers(1, 9))
def test_every_name_reads_back_as_itself(step, plan, number):
    name = CheckpointName(step, plan, number)
    assert CheckpointName.parse(str(name)) == name


@laws
@given(st.text() | st.from_regex(r"\d{8,20}-.*", fullmatch=True))
@example("0000000001-x")
@example("000000001-x\n")
@example("\u0660" * 9 + "-x")
def test_whatever_parses_is_written_as_it_was_read(text):
    name = CheckpointName.parse(text)
    assert name is None or str(name) == text


@laws
@given(steps, steps, plans)
def test_names_of_up_to_nine_digits_sort_by_step(one, other, plan):
    one, other = one % 10**9, other % 10**9
    names = [str(CheckpointName(step, plan)) for step in sorted((one, other))]
    assert names == sorted(names)


def test_a_name_looks_as_documented():
    assert str(CheckpointName(1200, "latest")) == "000001200-latest"
    assert str(CheckpointName(12345678901, "best")) == "12345678901-best"
    assert str(CheckpointName(1200, "latest", 2)) == "000001200-latest~2"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "latest",
        "1-latest",
        "000000001",
        "000000001-",
        "000000001-a/b",
        "000000001-.a",
        "-1-a",
        "000000001-a~1",
    ],
)
def test_what_is_no_name_parses_as_none(name):
    assert CheckpointName.parse(name) is None


@pytest.mark.parametrize(("step", "plan"), [(-1, "a"), (10**18, "a"), (1, ""), (1, "../a")])
def test_wrong_names_cannot_be_built(step, plan):
    with pytest.raises(ValueError, match=r"step must be|a plan's name has"):
        CheckpointName(step, plan)
    with pytest.raises(ValueError, match="number must be between 1 and 9"):
        CheckpointName(1, "a", 10)


nonces = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)
targets = st.text(min_size=1).filter(lambda text: "/" not in text and "\0" not in text)


@laws
@given(st.sampled_from(KINDS), targets, st.integers(1, 10**10 - 1), nonces)
def test_every_leftovers_name_reads_back_as_itself(kind, target, pid, nonce):
    left = Leftover(kind, target, pid, nonce)
    assert Leftover.parse(str(left)) == left


@laws
@given(
    st.text() | st.from_regex(r"\.(scratch|writing|link)-.*-[0-9]+-[0-9a-f]{8}\n?", fullmatch=True)
)
@example(".scratch-a-1-0badcafe\n")
@example(".writing-a-01-0badcafe")
def test_whatever_parses_as_a_leftover_is_written_as_it_was_read(text):
    left = Leftover.parse(text)
    assert left is None or str(left) == text


@pytest.mark.parametrize(
    "name",
    [
        ".scratch-notes", ".writing-draft.md", ".scratch--1-0badcafe", "scratch-a-1-0badcafe",
        ".scratch-a-1-0BADCAFE", ".Scratch-a-1-0badcafe", ".scratch-a-0-0badcafe",
        ".scratch-a-1-0badcaf", ".scratch-a-0badcafe", ".scratch-a/b-1-0badcafe",
        ".tmp-a-1-0badcafe",
    ],
)  # fmt: skip
def test_what_is_no_leftover_parses_as_none(name):
    assert Leftover.parse(name) is None


@pytest.mark.parametrize(
    "fields", [("x", "a", 1, "0" * 8), ("link", "", 1, "0" * 8), ("link", "a", 0, "0" * 8),
               ("link", "a", 1, "0" * 7), ("link", "a/b", 1, "0" * 8)],
)  # fmt: skip
def test_a_leftover_that_could_not_be_read_back_cannot_be_made(fields):
    with pytest.raises(ValueError, match="must be"):
        Leftover(*fields)
