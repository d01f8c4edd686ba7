"""Any bytes give a value or an error of ours. `make fuzz` looks for longer."""

import fuzz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

laws = settings(derandomize=True, deadline=None, max_examples=60)

# What parsers stumble over, to be put anywhere.
TRAPS = st.sampled_from(
    [
        *(b"[" * 3000, b'{"a":' * 3000, b"1" * 5000, b"0x" + b"F" * 5000, b"1:" * 3000 + b"1.5"),
        *(b"NaN", b"1e999", b'"\\ud800"', b"\xff", b"\0", b"\x1b[2J", b"\n", b"null", b"{}", b"[]"),
        *(
            b"&a [*a]",
            b"<<: *a",
            b"!!python/name:os",
            b"${X}",
            b"- ",
            b": ",
            b'"\\UFFFFFFFF"',
            b"-1",
        ),
    ]
)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """Something good, with pieces cut out and others put in."""
    content = whole
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 40)))
        content = content[:start] + draw(st.one_of(TRAPS, st.binary(max_size=20))) + content[end:]
    return content


@pytest.mark.parametrize("name", fuzz.PARSERS)
def test_any_bytes_give_a_value_or_an_error_of_ours(name, tmp_path):
    tried = fuzz.parser(name, tmp_path)
    starts = st.sampled_from([*fuzz.seeds(name), b""]).flatmap(damaged)

    @laws
    @given(st.one_of(st.binary(max_size=200), starts))
    def law(data):
        tried(data)
        tried(fuzz.sealed(data.rpartition(b',\n  "seal"')[0] or data))

    law()


@pytest.mark.parametrize("name", fuzz.PARSERS)
def test_what_fuzzing_begins_with_is_good(name, tmp_path):
    tried = fuzz.parser(name, tmp_path)
    assert all(tried(each) for each in fuzz.seeds(name))
