"""The HDF5 file: h5py lays it out, other code writes the tensors, h5py reads it."""

import h5py
import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_savekit.base.digests import tensor_digest
from keras_savekit.base.tensors import Blueprint, LayerWeights, Variable
from keras_savekit.errors import CheckpointError
from keras_savekit.formats import full_h5
from keras_savekit.formats.directio.memory import PAGE
from keras_savekit.formats.directio.writer import FileWriter
from keras_savekit.formats.hdf5 import extract, fill
from keras_savekit.formats.hdf5.template import (
    ALIGNED_FROM,
    ATTRIBUTE_LIMIT,
    Dataset,
    Layout,
    Template,
)

BIG = np.arange(1_500_000, dtype="float32")  # more than one piece


def written(path, values, *, groups=None, **options):
    """A file with one dataset for each of `values`, by name."""
    datasets = tuple(
        Dataset(name, position, **options.get(name, {})) for position, name in enumerate(values)
    )
    given = list(values.values())
    with FileWriter(path) as stream:
        return fill.write(stream, Template(Layout(groups or {}, datasets), given), given).entry


def test_h5py_reads_what_was_written(tmp_path):
    values = {
        "kernel": np.arange(12, dtype="float32").reshape(3, 4),
        "deep/er/kernel": np.arange(5, dtype="int64"),
        "scalar": np.array(7, dtype="int32"),
        "empty": np.zeros((0, 4), "float32"),
        "flags": np.array([True, False]),
        "big": BIG,
        "half": np.array([1.5, np.nan, -0.0], "float16"),
    }
    written(tmp_path / "f.h5", values)
    with h5py.File(tmp_path / "f.h5") as file:
        for name, value in values.items():
            read = file[name][()]
            assert read.dtype == value.dtype
            assert np.shape(read) == value.shape
            assert read.tobytes() == value.tobytes()


def test_an_array_that_is_not_contiguous_is_written_in_c_order(tmp_path):
    turned = np.asfortranarray(np.arange(12, dtype="float32").reshape(3, 4))
    written(tmp_path / "f.h5", {"turned": turned, "stepped": BIG[::3]})
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_array_equal(file["turned"], turned)
        np.testing.assert_array_equal(file["stepped"], BIG[::3])


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    entry = written(
        tmp_path / "f.h5", {"a": BIG, "b": BIG[:7], "c": np.array(1.0)}, groups={"": {"x": "y" * 9}}
    )
    content = (tmp_path / "f.h5").read_bytes()
    assert (entry.name, entry.size) == ("f.h5", len(content))
    assert entry.digest == xxhash.xxh3_128_hexdigest(content)


def test_the_digest_of_a_tensor_is_that_of_its_own_bytes():
    assert tensor_digest(BIG) == xxhash.xxh3_128_hexdigest(BIG.tobytes())
    turned = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    assert tensor_digest(turned) == xxhash.xxh3_128_hexdigest(turned.tobytes("C"))
    scalar = np.array(3, "int32")
    assert tensor_digest(scalar) == xxhash.xxh3_128_hexdigest(scalar.tobytes())


def test_large_tensors_are_contiguous_and_aligned(tmp_path):
    small = np.zeros(3, "float32")
    large = np.zeros(ALIGNED_FROM // 4 + 1, "float32")
    written(tmp_path / "f.h5", {"a": small, "b": large, "c": small, "d": large})
    with h5py.File(tmp_path / "f.h5") as file:
        assert all(file[name].chunks is None for name in "abcd")
        assert [file[name].id.get_offset() % PAGE for name in "bd"] == [0, 0]


def test_a_stored_dtype_may_be_wider_and_is_read_back_exactly(tmp_path):
    bits = np.arange(2**16, dtype="uint16")
    value = bits.view(ml_dtypes.bfloat16)
    options = {
        "wide": {"dtype": "float32"},
        "opaque": {"dtype": "V2", "attributes": {"dtype": "bfloat16"}},
    }
    written(tmp_path / "f.h5", {"wide": value, "opaque": value}, **options)
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["wide"].dtype == np.float32
        assert file["opaque"].dtype == np.dtype("V2")
        assert file["opaque"].attrs["dtype"] == "bfloat16"
        np.testing.assert_array_equal(file["wide"], value.astype("float32"))
        assert np.isnan(file["wide"][()]).any()
    wide, opaque = extract.read(tmp_path / "f.h5", [("wide", "bfloat16"), ("opaque", "bfloat16")])
    assert opaque.view("uint16").tobytes() == bits.tobytes()
    assert wide.view("uint16").tobytes() == bits.tobytes()


def test_lists_of_texts_read_as_keras_writes_them(tmp_path):
    groups = {
        "": {"format": "1", "config": b"{}"},
        "g": {"names": ["a", "bc", "déjà"], "none": []},
    }
    written(tmp_path / "f.h5", {}, groups=groups)
    with h5py.File(tmp_path / "f.h5") as file:
        assert file.attrs["format"] == "1"
        assert file.attrs["config"] == "{}"
        assert [name.decode() for name in file["g"].attrs["names"]] == ["a", "bc", "déjà"]
        assert file["g"].attrs["none"].dtype == np.float64
        assert file["g"].attrs["none"].shape == (0,)


@pytest.mark.parametrize("length", [3, 90, 5000])
def test_long_lists_of_texts_are_split_where_an_attribute_ends(tmp_path, length):
    names = [f"{number:05d}".rjust(length, "x") for number in range(70_000 // length + 60)]
    written(tmp_path / "f.h5", {}, groups={"g": {"names": names}})
    with h5py.File(tmp_path / "f.h5") as file:
        attributes = file["g"].attrs
        pieces = [attributes[f"names{number}"] for number in range(len(attributes))]
        assert len(pieces) > 1
        assert all(piece.nbytes <= ATTRIBUTE_LIMIT for piece in pieces)
        assert [name.decode() for piece in pieces for name in piece] == names


@pytest.mark.slow
def test_sixty_thousand_weights_fit_into_one_full_file(tmp_path):
    count = 60_000
    blueprint = Blueprint(
        variables=tuple(
            Variable("weight", at, f"layer/w{at}", (), "float32") for at in range(count)
        ),
        layers=(LayerWeights("layer", tuple(range(count))),),
        top_level=(),
        groups=(),
        slots=(),
        model_config='{"module": "keras", "class_name": "Sequential"}',
        training_config=None,
        compile_config=None,
        learning_rate=None,
        versions={"keras": "3"},
    )
    values = np.arange(count, dtype="float32")
    layout = full_h5.FullH5().layout(blueprint)
    scalars = [value.reshape(()) for value in values]
    with FileWriter(tmp_path / "f.h5") as stream:
        fill.write(stream, Template(layout, scalars), scalars)
    with h5py.File(tmp_path / "f.h5") as file:
        group = file["model_weights/layer"]
        pieces = [group.attrs[f"weight_names{number}"] for number in range(len(group.attrs))]
        names = [name.decode() for piece in pieces for name in piece]
        assert names == [f"layer/w{at}" for at in range(count)]
        assert [group[name][()] for name in names[::977]] == list(values[::977])


def test_a_file_is_never_overwritten(tmp_path):
    (tmp_path / "f.h5").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        written(tmp_path / "f.h5", {"a": BIG})
    assert (tmp_path / "f.h5").read_bytes() == b"precious"


def test_an_unreadable_file_is_one_error_that_names_the_file(tmp_path):
    path = tmp_path / "f.h5"
    written(path, {"a": BIG})
    with pytest.raises(CheckpointError, match=r"cannot be read.*f\.h5"):
        extract.read(path, [("b", "float32")])
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"cannot be read.*f\.h5"):
        extract.read(path, [("a", "float32")])


NAMES = st.lists(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1)
    .filter(lambda part: set(part) != {"."})
    .map(lambda part: f"{part}!"),
    max_size=6,
    unique=True,
)
ARRAYS = hnp.arrays(
    dtype=st.sampled_from(["float32", "float64", "float16", "int64", "uint8", "bool"]),
    shape=hnp.array_shapes(min_dims=0, min_side=0, max_side=5),
)


@settings(max_examples=40, deadline=None)
@given(NAMES, st.data())
def test_every_layout_reads_back(tmp_path_factory, names, data):
    path = tmp_path_factory.mktemp("f") / "f.h5"
    values = {name: data.draw(ARRAYS) for name in names}
    entry = written(path, values)
    assert entry.digest == xxhash.xxh3_128_hexdigest(path.read_bytes())
    read = extract.read(path, [(name, value.dtype.name) for name, value in values.items()])
    assert [each.tobytes() for each in read] == [each.tobytes() for each in values.values()]
