"""Durations, sizes and shares: what is read, and that what is written reads back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_savekit.errors import PolicyError
from keras_savekit.policy.units import (
    as_duration,
    as_share,
    as_size,
    duration_text,
    is_duration,
    share_text,
    size_text,
)

quick = settings(deadline=None, derandomize=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("7d", 604800), ("1.5h", 5400), ("1d 2h", 93600),
     (".5s", 0.5), (30, 30), ("30", 30), ("1e3", 1000)],
)  # fmt: skip
def test_durations_are_read(text, seconds):
    assert as_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 2 * 10**10), ("512MiB", 2**29), ("1.5 kB", 1500), ("7b", 7), (1000, 1000),
     ("1e3", 1000), ("2TiB", 2**41)],
)  # fmt: skip
def test_sizes_are_read(text, size):
    assert as_size(text) == size


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.5 %", 0.005), (0.1, 0.1)])
def test_shares_are_read(text, share):
    assert as_share(text) == share


@pytest.mark.parametrize("text", ["5x", "m", "", "5", "1m30h", "1h 30", "h5"])
def test_what_has_no_units_in_order_is_no_duration(text):
    assert not is_duration(text)


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (as_duration, "soon", "must be a duration such as"),
        (as_duration, None, "must be a number, got nothing"),
        (as_size, "big", "must be a size such as"),
        (as_size, "5 XB", 'unknown unit "XB"'),
        (as_size, "999999TB", "must be at most 100000TB"),
        (as_share, "5", "must be a share such as 5%"),
        (as_share, "0%", "more than 0%"),
        (as_share, -0.5, "more than 0%"),
    ],
)
def test_what_is_none_is_told(read, value, message):
    with pytest.raises(PolicyError) as caught:
        read(value)
    assert message in str(caught.value)


@quick
@given(st.one_of(st.integers(1, 10**9), st.floats(1e-9, 1e9)))
def test_a_duration_reads_back(seconds):
    assert as_duration(duration_text(seconds)) == seconds


@quick
@given(st.integers(1, 10**17))
def test_a_size_reads_back(size):
    assert as_size(size_text(size)) == size


@quick
@given(st.floats(1e-6, 0.999999))
def test_a_share_reads_back(share):
    assert as_share(share_text(share)) == share


def test_units_are_written_as_people_would():
    assert [duration_text(each) for each in (300, 5400, 604800, 0.5, 90)] == [
        "5m", "1h30m", "7d", "0.5s", "1m30s",
    ]  # fmt: skip
    assert [size_text(each) for each in (2 * 10**10, 2**29, 1500)] == ["20GB", "512MiB", "1500B"]
    assert share_text(0.05) == "5%"
