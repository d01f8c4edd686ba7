"""Layers that do something when they are loaded give the outputs that they gave when saved."""

import json

import keras
import loading_layers
import numpy as np
import pytest
from formats_models import arrays
from loading_layers import (
    FRAMES,
    NUMBERS,
    OTHERS,
    RECIPES,
    Refusing,
    Table,
    layers,
    outputs,
    tensor,
)
from training_builders import Interrupt, plan, policy

import keras_savekit as sk
from keras_savekit.model import layer_loading

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:stock Keras does not read the vocabularies"),
    pytest.mark.filterwarnings("ignore:.*stock Keras alone cannot load it"),
]

# Every kind of model for layers that have something to lose; one kind for the others.
EVERYWHERE = {"Normalization", "TextVectorization", *loading_layers.OWN}
CASES = [
    pytest.param(recipe, frame, id=f"{name}-{number}-{frame}")
    for name, recipes in RECIPES.items()
    for number, recipe in enumerate(recipes)
    for frame in (FRAMES if name in EVERYWHERE else ["nested"])
]


def test_every_layer_of_keras_that_loads_in_a_way_of_its_own_is_tried():
    assert set(loading_layers.found()) <= RECIPES.keys(), "add recipes to loading_layers.py"


def built(recipe, frame, layer, **compiled):
    model = FRAMES[frame](layer, recipe.x)
    model.compile(**{"optimizer": "sgd", "loss": "mse", "run_eagerly": True, **compiled})
    return model


def trained(model, x, epochs=1, directory=None):
    kit = [] if directory is None else [
        sk.SaveKit(policy(plan("every epoch")), directory=directory)
    ]  # fmt: skip
    y = np.ones((len(x), 1), "float32")
    model.fit(tensor(x), y, epochs=epochs, batch_size=3, shuffle=False, verbose=0, callbacks=kit)
    return model


def same(loaded, model, x, *, stock=False):
    if not (stock and any(isinstance(each, Table) for each in model._flatten_layers())):
        assert arrays(loaded.weights) == arrays(model.weights)  # stock Keras loses bits to Table
    assert outputs(loaded, x) == outputs(model, x)


@pytest.mark.parametrize(("recipe", "frame"), CASES)
def test_outputs_come_back_by_every_way(recipe, frame, tmp_path):
    x = recipe.x
    model = trained(built(recipe, frame, recipe.adapted()), x, directory=tmp_path / "run")
    for name in ("m.h5", "m.keras"):
        sk.save_model(model, tmp_path / name, verify="structure")
        same(sk.load_model(tmp_path / name), model, x)
    sk.save_weights(model, tmp_path / "m.weights.h5")
    model.save_weights(tmp_path / "stock.weights.h5")
    same(sk.load_model(tmp_path / "m.weights.h5"), model, x)
    same(sk.load_model(tmp_path / "run" / "latest"), model, x)

    def other(*, without_assets):
        # What is no weight and no asset is no business of a checkpoint's weights.
        known = recipe.in_configuration or (without_assets and recipe.in_assets)
        keras.utils.set_random_seed(99)
        return built(recipe, frame, recipe.adapted() if known else recipe.fresh())

    for name in ("m.h5", "m.keras", "m.weights.h5", "stock.weights.h5", "run/latest"):
        fresh = other(without_assets=True)
        sk.load_weights(fresh, tmp_path / name)
        same(fresh, model, x)
    fresh = other(without_assets=False)
    assert sk.restore(fresh, tmp_path / "run").level == "exact"
    same(fresh, model, x)
    resumed = trained(other(without_assets=False), x, directory=tmp_path / "run")
    same(resumed, model, x)
    further = trained(other(without_assets=False), x, epochs=2, directory=tmp_path / "run")
    same(further, trained(model, x), x)


# What stock Keras does not do with a full `.h5` file, which has weights only.
STOCK_LOSES = {"IntegerLookup", "StringLookup", "TextVectorization", *loading_layers.OWN}


@pytest.mark.parametrize(("recipe", "frame"), CASES)
def test_stock_keras_gives_the_same_outputs_of_our_files(recipe, frame, request, tmp_path):
    model = built(recipe, frame, recipe.adapted())
    sk.save_model(model, tmp_path / "m.keras", verify="structure")
    same(keras.models.load_model(tmp_path / "m.keras"), model, recipe.x, stock=True)
    name, *_ = request.node.callspec.id.split("-")
    if name in STOCK_LOSES or (name == "Normalization" and frame == "nested"):
        return
    sk.save_model(model, tmp_path / "m.h5", verify="structure")
    same(keras.models.load_model(tmp_path / "m.h5"), model, recipe.x, stock=True)


def test_predict_accuses_no_file_of_a_layer_that_stock_keras_forgets_to_finish(tmp_path):
    normal, inputs, inner = layers.Normalization(), keras.Input((4,)), keras.Input((4,))
    normal.adapt(NUMBERS)
    model = keras.Model(inputs, layers.Dense(1)(keras.Model(inner, normal(inner))(inputs)))
    model.compile("sgd", "mse", run_eagerly=True)
    kit = sk.SaveKit(policy(plan("train_end", verify="predict")), directory=tmp_path)
    with pytest.warns(sk.SavekitWarning, match="is whole, and not portable"):
        model.fit(NUMBERS, OTHERS[:, :1], verbose=0, callbacks=[kit])
    (path,) = (tmp_path / "checkpoints").iterdir()
    verification = json.loads((path / "verification.json").read_text())
    assert verification["findings"] == []
    assert [each["kind"] for each in verification["not_portable"]] == ["predict"]
    assert list((tmp_path / "quarantine").iterdir()) == []


# Functions that were traced before.


@pytest.mark.parametrize("way", ["restore", "weights of ours", "weights of stock Keras"])
def test_predict_uses_what_layers_loaded_although_it_was_traced_before(way, tmp_path):
    recipe = RECIPES["Normalization"][1]
    model = built(recipe, "functional", recipe.adapted(), run_eagerly=False)
    trained(model, NUMBERS, directory=tmp_path / "run")
    other = built(recipe, "functional", recipe.fresh(), run_eagerly=False)
    other.predict(NUMBERS, verbose=0)
    if way == "restore":
        sk.restore(other, tmp_path / "run")
    else:
        save = model.save_weights if "stock" in way else lambda path: sk.save_weights(model, path)
        save(tmp_path / "m.weights.h5")
        sk.load_weights(other, tmp_path / "m.weights.h5")
    expected = model.predict(NUMBERS, verbose=0)
    np.testing.assert_array_equal(other.predict(NUMBERS, verbose=0), expected)
    ours, theirs = (each.evaluate(NUMBERS, OTHERS[:, :1], verbose=0) for each in (other, model))
    assert ours == theirs


def resumable_fit(model, *callbacks, epochs=2):
    data = sk.resumable(NUMBERS, OTHERS[:, :1], batch_size=2, seed=3)
    kit = [each(data) for each in callbacks if not isinstance(each, keras.callbacks.Callback)]
    others = [each for each in callbacks if isinstance(each, keras.callbacks.Callback)]
    model.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=[*others, *kit])
    return model


@pytest.mark.parametrize("after", [2, 3], ids=["in mid-epoch", "at an epoch's end"])
def test_a_model_that_trained_on_another_normalization_resumes_exactly(after, tmp_path):
    recipe = RECIPES["Normalization"][1]

    def kit(data):
        return sk.SaveKit(policy(plan("every 1 steps")), directory=tmp_path, data=data)

    def made(layer):
        keras.utils.set_random_seed(4)
        return built(recipe, "nested", layer, run_eagerly=False)

    whole = resumable_fit(made(recipe.adapted()))
    with pytest.raises(KeyboardInterrupt):
        resumable_fit(made(recipe.adapted()), Interrupt(after), kit)
    other = resumable_fit(made(recipe.fresh()), epochs=1)  # its functions are traced
    resumable_fit(other, kit)
    same(other, whole, NUMBERS)


def test_a_model_without_such_layers_is_neither_walked_nor_traced_anew(tmp_path, monkeypatch):
    recipe = RECIPES["Dense"][0]
    model = trained(built(recipe, "nested", recipe.adapted()), NUMBERS, directory=tmp_path)
    model.predict(NUMBERS, verbose=0)
    before = model.train_function, model.predict_function

    def never(_):
        raise AssertionError

    monkeypatch.setattr(layer_loading, "list_members", never)
    sk.restore(model, tmp_path)
    assert (model.train_function, model.predict_function) == before


def test_a_step_that_is_traced_anew_within_a_fit_is_watched_as_before(tmp_path):
    recipe = RECIPES["Normalization"][1]
    model = trained(built(recipe, "functional", recipe.adapted()), NUMBERS, directory=tmp_path)
    seen = []

    class Restoring(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            watched = self.model.train_function
            inner = watched.savekit_layer.inner
            sk.restore(self.model, tmp_path)
            assert self.model.train_function is watched
            seen.append(watched.savekit_layer.inner is not inner)

    other = built(recipe, "functional", recipe.fresh(), run_eagerly=False)
    other.optimizer.build(other.trainable_variables)
    kit = sk.SaveKit(policy(plan("train_end")), directory=tmp_path / "other")
    other.fit(NUMBERS, OTHERS[:, :1], batch_size=3, verbose=0, callbacks=[Restoring(), kit])
    assert seen == [True, True]
    for each in (model, other):
        sk.restore(each, tmp_path)
    same(other, model, NUMBERS)


# Layers that refuse.


@pytest.fixture
def refused(tmp_path):
    """A run, and another model that has a layer which refuses to load it."""

    def made(seed):
        keras.utils.set_random_seed(seed)
        text = layers.TextVectorization(output_mode="tf_idf")
        text.adapt(loading_layers.TEXTS if seed == 1 else np.array([["x y"], ["x w v"]]))
        normal = layers.Normalization(axis=None)
        inputs = keras.Input((1,), dtype="string")
        x = normal(loading_layers.Flat()(text(inputs)))
        normal.adapt(NUMBERS * seed)
        model = keras.Model(inputs, layers.Dense(1)(Refusing()(layers.Dense(2)(x))))
        model.compile("adam", "mse", run_eagerly=True)
        return model

    trained(made(1), loading_layers.TEXTS, directory=tmp_path / "run")
    sk.save_weights(made(1), tmp_path / "m.weights.h5")
    made(1).save_weights(tmp_path / "stock.weights.h5")
    Refusing.refuses = True
    yield made(2)
    Refusing.refuses = False


@pytest.mark.parametrize(
    "way", ["restore", "resume", "m.weights.h5", "stock.weights.h5", "run/latest"]
)
def test_a_layer_that_refuses_is_named_and_the_model_is_as_before(way, refused, tmp_path):
    model, x = refused, loading_layers.TEXTS
    model.optimizer.build(model.trainable_variables)

    def state():
        variables = [*model.variables, *model.optimizer.variables]
        lookups = [each for each in model.layers if hasattr(each, "get_vocabulary")]
        return arrays(variables), outputs(model, x), [each.get_vocabulary() for each in lookups]

    ways = {
        "restore": lambda: sk.restore(model, tmp_path / "run"),
        "resume": lambda: trained(model, x, epochs=2, directory=tmp_path / "run"),
    }
    before = state()
    with pytest.raises(sk.MismatchError, match=r"(?s)refusing.*not today"):
        ways.get(way, lambda: sk.load_weights(model, tmp_path / way))()
    assert state() == before


def test_a_model_whose_layer_refuses_is_not_loaded(refused, tmp_path):
    with pytest.raises(sk.MismatchError, match=r"(?s)refusing.*not today"):
        sk.load_model(tmp_path / "run" / "latest")


@pytest.mark.filterwarnings("ignore:(?s).*structure of `inputs`:UserWarning")
def test_a_feature_space_comes_back(tmp_path):
    spaces, data = keras.utils.FeatureSpace, {"a": NUMBERS[:, 0], "s": loading_layers.WORDS[:, 0]}

    def made():
        space = spaces({"a": spaces.float_normalized(), "s": spaces.string_categorical()})
        dataset = keras.src.utils.module_utils.tensorflow.data.Dataset.from_tensor_slices(data)
        space.adapt(dataset)
        return keras.Model(space.get_inputs(), layers.Dense(1)(space.get_encoded_features()))

    keras.backend.clear_session()
    model = made()
    asked = {name: tensor(value[:, None]) for name, value in data.items()}
    for name in ("m.h5", "m.keras", "m.weights.h5"):
        save = sk.save_weights if "weights" in name else sk.save_model
        save(model, tmp_path / name, verify="structure")
        loaded = sk.load_model(tmp_path / name)
        np.testing.assert_array_equal(loaded(asked), model(asked))
        keras.backend.clear_session()  # features are numbered, as in another process
        other = made()
        sk.load_weights(other, tmp_path / name)
        np.testing.assert_array_equal(other(asked), model(asked))
