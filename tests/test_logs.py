"""Any value in a log can be written to manifests and histories, and stops no training."""

import json
import math
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from test_store_builders import fake_checkpoint, write_manifest

from keras_savekit.base.moment import MOST_NAMES, Moment
from keras_savekit.formats import log_values, state_h5
from keras_savekit.formats.log_values import decode_logs, encode_logs, readable_logs
from keras_savekit.store.manifest import MANIFEST
from keras_savekit.store.manifest_json import read_manifest, read_outline

laws = settings(derandomize=True, deadline=None, max_examples=150)
ML = [np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "int4")]
DTYPES = st.one_of(
    npst.scalar_dtypes(),
    npst.unicode_string_dtypes(),
    npst.byte_string_dtypes(),
    st.sampled_from([np.dtype(np.longdouble), np.dtype(np.clongdouble), np.dtype(">f4"), *ML]),
)


@st.composite
def arrays(draw):
    """Any bits, also each NaN."""
    dtype = draw(DTYPES)
    shape = draw(npst.array_shapes(min_dims=0, min_side=0, max_side=3))
    if dtype.kind in "SU" or dtype in ML or dtype.kind == "b":
        dull = draw(npst.arrays(np.int8, shape, elements=st.integers(0, 1)))
        return np.asarray(dull.astype(dtype))
    count = math.prod(shape) * dtype.itemsize
    return np.frombuffer(draw(st.binary(min_size=count, max_size=count)), dtype).reshape(shape)


scalars = st.one_of(
    st.floats(), st.integers(-(2**70), 2**70), st.booleans(), st.none(), st.text(max_size=5)
)
values = st.recursive(
    st.one_of(scalars, arrays(), arrays().map(lambda array: array.reshape(-1)[:1].copy())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=6,
)
anything = st.dictionaries(st.text(max_size=4), values, max_size=4)


def same(one, other):
    """Whether types and values are equal, arrays to the last bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def through_the_state(reported):
    return decode_logs(json.loads(bytes(state_h5.encode(encode_logs(reported)))))


@laws
@given(anything)
def test_any_logs_are_restored_from_the_history(reported):
    assert same(through_the_state(reported), reported)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint") / "000000005-latest"
    directory.mkdir()
    fake_checkpoint(directory)
    return directory


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@laws
@given(anything)
def test_any_readable_logs_are_restored_from_a_manifest(place, reported):
    read = readable_logs(reported).logs
    write_manifest(place, moment=Moment(logs=read))
    for again in (read_manifest(place).moment.logs, read_outline(place).moment.logs):
        assert same(again, read_texts(read))


def read_texts(value):
    """A text that names a number that JSON does not have is read as that number."""
    if isinstance(value, dict):
        return {key: read_texts(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(read_texts(each) for each in value)
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array(0.5), 0.5),
        (np.array([0.5], np.float16), (0.5,)),
        (np.array([[1, 2], [3, 4]], np.uint8), ((1, 2), (3, 4))),
        (np.array([1.5, -2.0], ml_dtypes.bfloat16), (1.5, -2.0)),
        (np.array([1.5], np.longdouble), (1.5,)),
        (np.array([1 + 2j]), ("(1+2j)",)),
        (np.array(["a", "b"]), ("a", "b")),
        (np.array([b"a", b"\xff"]), ("a", "\\xff")),
        (np.array(["2020-02-03"], "M8[D]"), ("2020-02-03",)),
        (tf.constant([1.0, 2.0]), (1.0, 2.0)),
        (tf.Variable(3), 3),
        ([1, (2, {"a": np.zeros(2)})], (1, (2, {"a": (0.0, 0.0)}))),
        ("text", "text"),
        ("\ud800", "\\ud800"),
        (None, None),
    ],
)
def test_values_are_read_without_a_note(value, expected):
    found = readable_logs({"x": value})
    assert same(found.logs["x"], expected)
    assert not found.notes


class Hostile:
    """Answers nothing."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __repr__(self):
        raise RuntimeError("no")


NESTED: list = []
NESTED.append(NESTED)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object, "type"),
        (1 + 2j, "complex"),
        ({1, 2}, "set"),
        (b"bytes", "bytes"),
        (10**5000, "int"),
        (Hostile(), "Hostile"),
        ([0.5, Hostile()], "list"),
        (SimpleNamespace(numpy=lambda: 1 / 0), "SimpleNamespace"),
        (np.array([object()]), "object array"),
        (np.zeros(2, [("a", "f4"), ("b", "i2")]), "array"),
        (tf.constant("text"), "EagerTensor"),
        (tf.ragged.constant([[1], [2, 3]]), "object array"),
        (NESTED, "too large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_json_does_not_have_is_kept_as_text_and_noted(value, kind):
    found = readable_logs({"x": value, "loss": 0.5})
    assert kind in found.notes["x"]
    assert found.logs["loss"] == 0.5
    json.dumps(found.logs)
    through_the_state({"x": value})


def test_what_is_too_large_for_a_manifest_is_described_there_and_kept_in_the_history():
    side = math.isqrt(log_values.MOST_VALUES) + 1
    cm = np.arange(side * side, dtype=np.float32).reshape(side, side)
    reported = {
        "cm": cm,
        "f1": np.zeros(100),
        "list": [0.0] * (log_values.MOST_VALUES + 1),
        "z": 1.5,
    }
    found = readable_logs(reported)
    assert found.logs["cm"] == f"float32 array of shape ({side}, {side})"
    assert found.logs["list"].startswith("list [0.0, 0.0")
    assert (len(found.logs["f1"]), found.logs["z"]) == (100, 1.5)
    assert set(found.notes) == {"cm", "list"}
    assert same(through_the_state(reported), reported)


def test_a_manifest_never_gets_more_names_than_can_be_read(place):
    for value in (0.5, 1):
        found = readable_logs({f"m{number}": value for number in range(MOST_NAMES + 1)})
        write_manifest(place, moment=Moment(logs=found.logs))
        assert len(read_manifest(place).moment.logs) == MOST_NAMES
        assert found.notes[""] == "of 10001 metrics only 10000 are kept in manifests"


def test_names_that_are_not_text_become_text():
    assert readable_logs({1: 0.5, ("a", 2): 1.0}).logs == {"1": 0.5, "('a', 2)": 1.0}
    assert encode_logs({1: 0.5}) == {"1": 0.5}


def test_tensors_are_restored_as_tensors():
    saved = encode_logs({"x": tf.constant([1, 2], tf.int16)})
    back = decode_logs(saved, tf.convert_to_tensor)["x"]
    assert tf.is_tensor(back)
    assert (back.dtype, back.numpy().tolist()) == (tf.int16, [1, 2])


def test_the_json_of_scalars_is_what_it_was_in_version_0_1(place):
    was = {"loss": 0.25, "mae": 1, "nan": math.nan, "inf": -math.inf}
    write_manifest(place, moment=Moment(logs=readable_logs(was).logs))
    assert (
        b'    "logs": {\n      "loss": 0.25,\n      "mae": 1,\n      "nan": "NaN",\n'
        b'      "inf": "-Infinity"\n    }' in (place / MANIFEST).read_bytes()
    )
    assert same(dict(read_manifest(place).moment.logs), was)
    state = {"loss": 0.25, "mae": 1, "list of 0.1": [0.5, 1.5]}
    assert encode_logs({"loss": 0.25, "mae": 1}) == {"loss": 0.25, "mae": 1}
    assert decode_logs(state) == state


BITS = {"dtype": "<f4", "shape": [1], "bits": "AAAAAA=="}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"what": 1},
        {"array": 1},
        {"array": {}},
        {"list": 3},
        {"dict": [1]},
        {"array": {**BITS, "dtype": "O"}},
        {"array": {**BITS, "dtype": "finfo"}},
        {"array": {**BITS, "dtype": "no"}},
        {"array": {**BITS, "dtype": "V0"}},
        {"array": {**BITS, "shape": [2]}},
        {"array": {**BITS, "shape": [-1, -1]}},
        {"array": {**BITS, "shape": ["1"]}},
        {"array": {**BITS, "bits": "AAAAA"}},
        {"array": {**BITS, "bits": 3}},
    ],
)
def test_a_history_with_invalid_values_is_refused(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 - any of NumPy's words
        decode_logs({"x": wrong})


def test_a_text_counts_by_its_length_and_a_short_one_is_kept():
    longest = "a" * (log_values.MOST_VALUES * log_values._PER_TEXT)
    read = readable_logs({"short": "b" * 100_000, "long": longest + "a" * log_values._PER_TEXT})
    assert read.logs["short"] == "b" * 100_000
    assert read.notes.keys() == {"long"}
    assert readable_logs({"long": longest}).notes == {}
