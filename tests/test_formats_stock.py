"""Stock Keras reads what is written here, and finds in it what stock Keras itself writes."""

import json
import logging
import zipfile

import h5py
import keras
import numpy as np
import pytest
from formats_models import arrays, batch, fingerprint, layers, small, train, write

import keras_savekit as sk
from keras_savekit.formats.full_h5 import unique_names
from keras_savekit.formats.keras_zip import locate_weights
from keras_savekit.verify.depths import verify_files

pytestmark = pytest.mark.slow


def two_inputs_and_outputs():
    left, right = keras.Input((4,), name="left"), keras.Input((6,), name="right")
    shared = layers.Dense(5, name="shared")
    hidden = layers.Concatenate()([shared(left), layers.Dense(5)(right)])
    outputs = [layers.Dense(2, name="first")(hidden), layers.Dense(3, name="second")(hidden)]
    model = keras.Model([left, right], outputs)
    model.compile(
        "adam",
        loss=["mean_squared_error", "mean_absolute_error"],
        loss_weights=[1.0, 0.5],
        metrics=[["mae"], ["mse"]],
    )
    return model


def nested():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inner(inputs))))
    model.compile("adamw", "mse")
    return model


def recurrent():
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.Bidirectional(layers.GRU(4, return_sequences=True)),
            layers.LSTM(3, recurrent_dropout=0.1),
        ]
    )
    model.compile("rmsprop", "mse")
    return model


def stateful():
    model = keras.Sequential([keras.Input((5, 3), batch_size=4), layers.GRU(4, stateful=True)])
    model.compile("adam", "mse")
    return model


def attention():
    inputs = keras.Input((5, 8))
    attended = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    model = keras.Model(inputs, layers.LayerNormalization()(attended + inputs))
    model.compile("lion", "mse")
    return model


def mixed_precision():
    policy = keras.DTypePolicy("mixed_float16")
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, dtype=policy), layers.Dense(3, dtype="float32")]
    )
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "mse")
    return model


def bfloat16():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, dtype="bfloat16"), layers.Dense(3, dtype="bfloat16")]
    )
    model.compile("adam", "mse")
    return model


@keras.saving.register_keras_serializable("tests")
class Twins(layers.Layer):
    """Two sublayers and two weights with equal names."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.a = layers.Dense(units, name="same")
        self.b = layers.Dense(units, name="same")

    def build(self, shape):
        self.scale = self.add_weight(shape=(), name="same", initializer="ones")
        self.shift = self.add_weight(shape=(), name="same")
        self.a.build(shape)
        self.b.build((*shape[:-1], self.units))

    def call(self, x):
        return self.b(self.a(x)) * self.scale + self.shift

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def equal_names():
    model = keras.Sequential([keras.Input((4,)), Twins(), layers.Dense(2, name="same")])
    model.compile("adam", "mse")
    return model


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """A model with layers in a list and a weight of its own."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.blocks = [layers.Dense(units, activation="relu") for _ in range(2)]
        self.head = layers.Dense(2)

    def build(self, shape):
        self.temperature = self.add_weight(shape=(1,), name="temperature", initializer="ones")
        for block in self.blocks:
            block.build(shape)
            shape = (*shape[:-1], self.units)
        self.head.build(shape)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.temperature

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def frozen():
    model = small()
    model.layers[0].trainable = False
    model.compile("adam", "mse")
    return model


@keras.saving.register_keras_serializable("tests")
class Foreign(layers.Layer):
    """Weights with names that are not ASCII."""

    def build(self, shape):
        self.size = self.add_weight(shape=shape[-1:], name="größe", initializer="ones")
        self.output_weight = self.add_weight(shape=(), name="出力 . é", initializer="ones")

    def call(self, x):
        return x * self.size + self.output_weight


def odd_names():
    inputs = keras.Input((4,), name="in-put.1")
    hidden = layers.Dense(4, name="long_" + "x" * 300)(inputs)
    model = keras.Model(inputs, Foreign(name="a.b-c")(hidden))
    model.compile("adam", "mse")
    return model


def averaging():
    return small(keras.optimizers.Adam(use_ema=True, ema_momentum=0.9))


def accumulating():
    return small(keras.optimizers.Adam(gradient_accumulation_steps=2))


def scheduled():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    return small(keras.optimizers.SGD(schedule, momentum=0.9))


def adafactor():
    return small("adafactor", loss="mse")


def several_optimizers():
    optimizers = keras.optimizers
    if not hasattr(optimizers, "MultiOptimizer"):
        return small()
    chosen = optimizers.OptimizerMap(optimizers.SGD(0.1), {".*kernel": optimizers.Adam(0.01)})
    return small(optimizers.MultiOptimizer(chosen))


MODELS = [
    small,
    two_inputs_and_outputs,
    nested,
    recurrent,
    stateful,
    attention,
    mixed_precision,
    bfloat16,
    equal_names,
    frozen,
    odd_names,
    several_optimizers,
    averaging,
    accumulating,
    scheduled,
    adafactor,
]


def stock_load(directory, manifest, model):
    """Load as a user without this package would."""
    if manifest.save == "model":  # .h5 or .keras
        loaded = keras.models.load_model(directory / manifest.model_file)
    else:
        loaded = keras.models.model_from_json((directory / "model.json").read_text())
        if model.compiled and not loaded.compiled:  # older versions leave it out
            loaded.compile_from_config(model.get_compile_config())
        if model.compiled and not loaded.optimizer.built:
            loaded.optimizer.build(loaded.trainable_variables)
        loaded.load_weights(directory / manifest.model_file)
    if loaded.compiled:
        loaded.run_eagerly = True
    return loaded


def same_predictions(loaded, model):
    x, _ = batch(model)
    for layer in (*loaded.layers, *model.layers):
        if getattr(layer, "stateful", False):
            layer.reset_states()  # what stock Keras's files have no place for
    actual, expected = (each.predict(x, verbose=0) for each in (loaded, model))
    keras.tree.map_structure(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_stock_keras_loads_equal_weights_and_trains_on(build, tmp_path):
    model = train(build())
    before = fingerprint(model)
    saved = [
        write(tmp_path, model),
        write(tmp_path, model, form="keras"),
        write(tmp_path, model, "weights"),
    ]
    assert fingerprint(model) == before
    full, *with_slots = (stock_load(*each, model) for each in saved)
    for loaded in (full, *with_slots):
        assert arrays(loaded.weights) == arrays(model.weights)
    for loaded in with_slots:
        assert arrays(loaded.optimizer.variables) == arrays(model.optimizer.variables)
    same_predictions(full, model)
    for loaded in (full, *with_slots):
        train(loaded)


def test_a_subclassed_model_loads_and_trains_on(tmp_path):
    model = Subclassed()
    model.compile("adam", "mse", run_eagerly=True)
    x, y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    model.fit(x, y, verbose=0)
    for save in ("model", "weights"):
        loaded = stock_load(*write(tmp_path, model, save), model)
        assert type(loaded) is Subclassed
        assert arrays(loaded.weights) == arrays(model.weights)
        loaded.fit(x, y, verbose=0)


def test_an_uncompiled_model_loads_as_such(tmp_path, caplog):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    for save in ("model", "weights"):
        loaded = stock_load(*write(tmp_path, model, save), model)
        assert not loaded.compiled
        assert arrays(loaded.weights) == arrays(model.weights)
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


ALIASES = ["mse", "mae", "mape", "msle", "kld", "bce", "MSE", "KLD"]


@pytest.mark.parametrize("alias", ALIASES)
def test_a_loss_given_by_its_alias_loads(alias, tmp_path):
    metrics = ["accuracy"] if alias.lower() == "kld" else [alias, "accuracy"]
    model = train(small(loss=alias, metrics=metrics))
    loaded = stock_load(*write(tmp_path, model), model)
    x, y = batch(model)
    assert keras.losses.get(loaded.loss) is keras.losses.get(alias)
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
@pytest.mark.parametrize("form", ["h5", "keras", "weights.h5"])
def test_compressed_files_are_smaller_and_stock_keras_reads_them(form, compression, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((128,)),
            layers.Dense(256, kernel_initializer="zeros"),
            layers.Dense(256, dtype="bfloat16"),
        ]
    )
    model.compile("sgd", "mse")
    save = "weights" if "weights" in form else "model"
    plain, _ = write(tmp_path, model, save, form)
    directory, manifest = write(tmp_path, model, save, form, compression)
    sizes = [(each / manifest.model_file).stat().st_size for each in (directory, plain)]
    assert sizes[0] < sizes[1] - 100_000
    assert verify_files(directory, "structure", 0.0).good
    for loaded in (stock_load(directory, manifest, model), sk.load_model(directory)):
        assert arrays(loaded.weights) == arrays(model.weights)


def homemade(y, prediction):
    return keras.ops.mean(keras.ops.abs(y - prediction))


@keras.saving.register_keras_serializable("tests")
def registered(y, prediction):
    return homemade(y, prediction)


@keras.saving.register_keras_serializable("tests")
class Homemade(keras.losses.Loss):
    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, y, prediction):
        return self.factor * homemade(y, prediction)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@pytest.mark.parametrize("loss", [homemade, registered, Homemade(3.0)])
def test_losses_and_metrics_of_ones_own_load(loss, tmp_path):
    metrics = [homemade, keras.metrics.TopKCategoricalAccuracy(2)]
    model = train(small(loss=loss, metrics=metrics))
    directory, manifest = write(tmp_path, model)
    with keras.saving.custom_object_scope({"homemade": homemade}):
        loaded = stock_load(directory, manifest, model)
    x, y = batch(model)
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adagrad", "nadam", "ftrl", "adadelta"])
def test_every_optimizer_loads_with_its_settings_and_its_present_rate(optimizer, tmp_path):
    model = train(small(optimizer))
    model.optimizer.learning_rate = 0.0625
    loaded = stock_load(*write(tmp_path, model), model)
    assert type(loaded.optimizer) is type(model.optimizer)
    expected = {**model.optimizer.get_config(), "learning_rate": 0.0625}
    assert loaded.optimizer.get_config() == expected


def test_the_weights_of_losses_and_the_metrics_load(tmp_path):
    model = train(two_inputs_and_outputs())
    loaded = stock_load(*write(tmp_path, model), model)
    x, y = batch(model)
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    assert loaded.metrics_names == model.metrics_names


# What is in the files, beside what stock Keras writes for the same model.


def structure(path):
    """Every group with its attributes, every dataset with shape, dtype and attributes."""
    found = {}

    def visit(name, item):
        attributes = {key: _text(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            found[name] = (item.shape, str(item.dtype), attributes)
        else:
            found[name] = attributes

    with h5py.File(path) as file:
        visit("", file)
        file.visititems(visit)
    return found


def _text(value):
    if isinstance(value, np.ndarray):
        return [_text(each) for each in value.tolist()]
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_a_weights_file_has_the_structure_stock_keras_gives_it(build, tmp_path):
    model = train(build())
    directory, manifest = write(tmp_path, model, "weights")
    model.save_weights(tmp_path / "stock.weights.h5")
    assert structure(directory / manifest.model_file) == structure(tmp_path / "stock.weights.h5")


def test_an_archive_has_the_members_and_the_weights_stock_keras_gives_it(tmp_path):
    model = train(small())
    directory, _ = write(tmp_path, model, form="keras")
    model.save(tmp_path / "stock.keras")
    members = []
    for path in (directory / "model.keras", tmp_path / "stock.keras"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert all(each.compress_type == zipfile.ZIP_STORED for each in archive.infolist())
            config = json.loads(archive.read("config.json"))
            metadata = json.loads(archive.read("metadata.json"))
            (tmp_path / f"{path.stem}.weights.h5").write_bytes(archive.read("model.weights.h5"))
            found = structure(tmp_path / f"{path.stem}.weights.h5")
            members.append((sorted(archive.namelist()), config, metadata.keys(), found))
    assert members[0] == members[1]


def test_the_weights_in_an_archive_begin_where_a_disk_block_does(tmp_path):
    directory, _ = write(tmp_path, train(small()), form="keras")
    base = locate_weights(directory / "model.keras")
    assert base % 4096 == 0
    assert (directory / "model.keras").read_bytes()[base : base + 4] == b"\x89HDF"


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize(
    "build", [small, two_inputs_and_outputs, nested, recurrent, frozen], ids=lambda b: b.__name__
)
def test_a_full_file_differs_from_stock_keras_only_where_documented(build, tmp_path):
    model = train(build())
    directory, _ = write(tmp_path, model)
    ours = structure(directory / "model.h5")
    model.save(tmp_path / "stock.h5")
    stock = structure(tmp_path / "stock.h5")

    def without(found, *groups):
        return {k: v for k, v in found.items() if k.split("/")[0] not in groups and k}

    assert without(ours, "savekit_optimizer") == without(stock, "optimizer_weights")
    texts = {"model_config", "training_config", "savekit_compile_config"}
    for head in (ours[""], stock[""]):
        for name in texts & set(head):
            assert isinstance(json.loads(head.pop(name)), dict)
    assert ours[""] == stock[""]


def test_more_names_than_an_attribute_holds_are_read_by_stock_keras(tmp_path):
    inputs = keras.Input((2,))
    x = inputs
    for number in range(12):
        x = layers.Dense(2, name=f"{number}_" + "long" * 1500)(x)
    model = keras.Model(inputs, x)
    directory, _ = write(tmp_path, model)
    with h5py.File(directory / "model.h5") as file:
        assert "layer_names1" in file["model_weights"].attrs
    loaded = keras.models.load_model(directory / "model.h5")
    assert arrays(loaded.weights) == arrays(model.weights)


def test_any_names_become_unique():
    names = ["a/b", "a/b", "a", "a/b/c", "", "/", "a_1", "a/b_1"]
    unique = unique_names(names)
    assert len(set(unique)) == len(names)
    assert not any(other.startswith(f"{name}/") for name in unique for other in unique)
