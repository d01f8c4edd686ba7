"""The batch for depth `predict`."""

import pickle

import numpy as np
import pytest
import tensorflow as tf

from keras_savekit.errors import CheckpointError, DataError
from keras_savekit.verify.loader import probe

ONE, TWO = np.arange(6.0).reshape(2, 3), np.array([[1], [2]], np.int64)


@pytest.mark.parametrize(
    "batch",
    [ONE, [ONE, TWO], [ONE], {"a": ONE, "b/c": TWO}, [ONE] * 12, np.array([[b"x"], [b"y z"]])],
)
def test_a_batch_is_read_back_as_it_was_given(tmp_path, batch):
    path = tmp_path / probe.PROBE
    path.write_bytes(probe.to_bytes(batch))
    found = probe.read(path)
    assert type(found) is type(batch)
    tf.nest.map_structure(np.testing.assert_array_equal, found, batch)


def test_tensors_are_accepted_and_texts_too(tmp_path):
    path = tmp_path / probe.PROBE
    path.write_bytes(probe.to_bytes((tf.constant(ONE), tf.constant([["é"], ["b"]]))))
    first, second = probe.read(path)
    np.testing.assert_array_equal(first, ONE)
    assert second.tolist() == [["é".encode()], [b"b"]]


def test_without_a_file_there_is_no_batch(tmp_path):
    assert probe.read(tmp_path / probe.PROBE) is None


@pytest.mark.parametrize("batch", [3.0, [], {}, [[object()]], "text", [ONE, None], {"a": {"b": 1}}])
def test_a_value_that_is_not_a_batch_is_refused(batch):
    with pytest.raises(DataError, match="give what the model is called with"):
        probe.to_bytes(batch)


def test_a_pickled_batch_is_refused_and_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return (ran.touch, ())

    path = tmp_path / probe.PROBE
    for save in (
        lambda file: np.savez(file, array=np.array([Hostile()], object)),
        lambda file: pickle.dump(Hostile(), file),
    ):
        with path.open("wb") as file:
            save(file)
        with pytest.raises(CheckpointError, match="the probe cannot be read"):
            probe.read(path)
    assert not ran.exists()


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(probe.to_bytes(ONE))
    (tmp_path / probe.PROBE).symlink_to("elsewhere")
    with pytest.raises(CheckpointError, match="cannot be read"):
        probe.read(tmp_path / probe.PROBE)


def test_texts_of_bytes_are_a_batch_and_texts_among_other_objects_are_not():
    assert probe.to_bytes(np.array([b"a", b"bc"], object))
    with pytest.raises(DataError, match="not a batch of numbers or texts"):
        probe.to_bytes(np.array([b"a", 1], object))
