"""What is relied upon of Keras's private saving walk: a version that changes it fails here."""

import h5py
import keras
import pytest
from formats_models import layers, small, train
from keras.src.saving import saving_lib

from keras_savekit.model.saving_walk import record_walk

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("optimizer", ["adam", "loss scaled"])
def test_the_walk_names_what_keras_saves_in_the_same_order(optimizer, tmp_path):
    if optimizer == "loss scaled":
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    model = train(small(optimizer))
    walk = record_walk(model)
    model.save_weights(tmp_path / "stock.weights.h5")
    found = []
    with h5py.File(tmp_path / "stock.weights.h5") as file:
        file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
        assert set(walk.values) == set(found)
        for path, variable in walk.values.items():
            assert file[path][()].tobytes() == variable.numpy().tobytes()


def test_every_value_of_the_walk_is_the_live_variable_itself():
    model = train(small())
    live = {id(variable) for variable in [*model.variables, *model.optimizer.variables]}
    assert {id(value) for value in record_walk(model).values.values()} <= live


def test_the_walk_leaves_optimizers_as_they_were():
    before = keras.optimizers.Optimizer.save_own_variables
    record_walk(train(small()))
    assert keras.optimizers.Optimizer.save_own_variables is before


def test_a_recording_store_is_a_store_keras_accepts():
    assert callable(saving_lib._save_state)
    assert issubclass(type(record_walk.__globals__["_RecordingStore"]()), saving_lib.H5IOStore)


def test_the_legacy_reader_builds_what_deserialize_names():
    from keras.src.legacy.saving.saving_utils import model_from_config

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    config = keras.saving.serialize_keras_object(model)
    built = model_from_config({"class_name": "deserialize", "config": {"config": config}})
    assert [weight.shape for weight in built.weights] == [(4, 3), (3,)]
