"""A real checkpoint is read once to verify and once to load, without the page cache."""

import keras
import pytest
from formats_models import write
from test_store_builders import reads_of

from keras_savekit.model.assign import read_tensors
from keras_savekit.verify.depths import verify_files

ROUNDING = 1.1  # whole pages, and what HDF5 itself reads of an archive


@pytest.fixture(scope="module")
def model():
    made = keras.Sequential([keras.Input((300,)), keras.layers.Dense(300), keras.layers.Dense(1)])
    made.compile("adam", "mse")
    made.optimizer.build(made.trainable_variables)
    return made


@pytest.mark.parametrize("form", ["h5", "keras", "weights.h5"])
def test_a_checkpoint_is_read_once_by_the_depth_structure(model, form, tmp_path):
    directory, manifest = write(tmp_path, model, "weights" if "weights" in form else "model", form)
    found, read = reads_of(lambda: verify_files(directory, "structure", 0.0))
    size = sum(each.size for each in manifest.files)
    assert found.good
    assert size <= read <= ROUNDING * size


@pytest.mark.parametrize("form", ["h5", "keras", "weights.h5"])
def test_large_tensors_are_read_without_hdf5_and_the_page_cache(model, form, tmp_path):
    directory, manifest = write(tmp_path, model, "weights" if "weights" in form else "model", form)
    tensors, read = reads_of(lambda: read_tensors(directory, manifest))
    large = sum(each.nbytes for each in tensors.values() if each.nbytes >= 64 * 1024)
    assert large > 1_000_000
    assert large <= read <= ROUNDING * large
