"""A new format is one class: everything else works with it through the registry."""

import json

import numpy as np
import pytest
from formats_models import small, write

from keras_savekit.errors import ModelError
from keras_savekit.formats import model_format
from keras_savekit.formats.hdf5 import access, extract, fill
from keras_savekit.formats.hdf5.template import Dataset, Layout
from keras_savekit.formats.model_format import ModelFormat, ModelTexts
from keras_savekit.formats.registry import FORMATS, find_format, format_of
from keras_savekit.store.manifest import split_place
from keras_savekit.verify.depths import verify_files


class NumberedH5(ModelFormat):
    """Weights by number, and the architecture in an attribute."""

    name = "numbered.h5"

    def layout(self, blueprint):
        weights = blueprint.positions("weight")
        datasets = tuple(Dataset(f"weights/{position}", position) for position in weights)
        return Layout({"": {"model_config": blueprint.model_config}}, datasets)

    def write(self, stream, blueprint, template, values, created, base=None):
        return fill.write(stream, template, values, base)

    def read_texts(self, path, architecture):
        with access.open_for_reading(path) as file:
            return ModelTexts(file.attrs["model_config"])


@pytest.fixture
def numbered(monkeypatch):
    monkeypatch.setitem(FORMATS, NumberedH5.name, NumberedH5())
    return FORMATS[NumberedH5.name]


def test_the_longest_suffix_decides_the_format(numbered):
    assert find_format("model.h5").name == "h5"
    assert find_format("model.weights.h5").name == "weights.h5"
    assert find_format("model.numbered.h5") is numbered
    assert find_format("model.json") is None


def test_an_unknown_name_is_an_error_that_lists_the_suffixes(numbered, tmp_path):
    with pytest.raises(ModelError, match=r"\.h5, \.keras, \.weights\.h5 or \.numbered\.h5"):
        format_of(tmp_path / "model.txt")


@pytest.mark.slow
def test_a_checkpoint_of_a_new_format_is_written_verified_and_read(numbered, tmp_path):
    model = small()
    directory, manifest = write(tmp_path, model, form=numbered.name)
    assert manifest.model_file == "model.numbered.h5"
    found = verify_files(directory, "structure", 0.0)
    assert (found.findings, found.done, found.depth) == ((), True, "structure")
    path = directory / manifest.model_file
    texts = format_of(path).read_texts(path, directory / numbered.architecture_file)
    assert json.loads(texts.model)["class_name"] == "Sequential"
    entries = [entry for entry in manifest.tensors if entry.role == "weight"]
    places = [(split_place(entry.places[0])[1], entry.dtype) for entry in entries]
    read = extract.read(path, places, numbered.hdf5_begins(path))
    for value, weight in zip(read, model.weights, strict=True):
        np.testing.assert_array_equal(value, weight.numpy())


def test_the_formats_that_are_known_have_the_names_that_a_policy_may_give():
    assert set(FORMATS) == set(model_format.Name.__args__)
