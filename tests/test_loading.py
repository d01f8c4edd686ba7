"""`sk.save_model`, `sk.load_model` and their like: everything comes back, or nothing changes."""

import json
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from formats_models import arrays, batch, fingerprint, layers, small, train, write
from test_formats_capture import Doubled
from test_formats_stock import MODELS, Subclassed, homemade, same_predictions

import keras_savekit as sk
from keras_savekit.formats import single_file
from keras_savekit.store.naming import Leftover

pytestmark = pytest.mark.slow


def same(loaded, model):
    """Equal in every variable that outlives an epoch."""
    assert arrays(loaded.weights) == arrays(model.weights)
    assert arrays(loaded.variables) == arrays(model.variables)
    if model.compiled:
        assert arrays(loaded.optimizer.variables) == arrays(model.optimizer.variables)


def leftovers(directory):
    return [each.name for each in directory.iterdir() if Leftover.parse(each.name)]


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_everything_comes_back_bit_for_bit_and_training_goes_on(build, tmp_path):
    model = train(build())
    before = fingerprint(model)
    sk.save_model(model, tmp_path / "m.h5", verify="structure")
    sk.save_model(model, tmp_path / "m.keras", verify="structure")
    sk.save_weights(model, tmp_path / "m.weights.h5")
    checkpoint, _ = write(tmp_path, model)
    weights, _ = write(tmp_path, model, "weights")
    assert fingerprint(model) == before
    assert not leftovers(tmp_path)
    loaded = None
    archive, _ = write(tmp_path, model, form="keras")
    files = [tmp_path / f"m.{suffix}" for suffix in ("h5", "keras", "weights.h5")]
    for path in (*files, checkpoint, weights, archive):
        loaded = sk.load_model(path)
        same(loaded, model)
    for each in (model, loaded):
        train(each, seed=4)
    assert arrays(loaded.weights) == arrays(model.weights)
    same_predictions(keras.models.load_model(tmp_path / "m.h5"), sk.load_model(tmp_path / "m.h5"))


def test_what_compile_was_given_comes_back(tmp_path):
    model = small(loss="mse", weighted_metrics=["mae"], steps_per_execution=2)
    model.optimizer.learning_rate = 0.125
    sk.save_model(model, tmp_path / "m.h5", verify="bytes")
    loaded = sk.load_model(tmp_path / "m.h5")
    ours, theirs = loaded.get_compile_config(), model.get_compile_config()
    for config in (ours, theirs):
        config.pop("optimizer")
    assert ours == theirs
    assert loaded.steps_per_execution == 2
    assert float(loaded.optimizer.learning_rate.numpy()) == 0.125


def test_a_model_is_loaded_uncompiled_on_request_and_if_it_was(tmp_path):
    model = train(small())
    sk.save_model(model, tmp_path / "m.h5", verify="bytes")
    assert not sk.load_model(tmp_path / "m.h5", compile=False).compiled
    bare = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    sk.save_model(bare, tmp_path / "bare.h5")
    loaded = sk.load_model(tmp_path / "bare.h5")
    assert not loaded.compiled
    same(loaded, bare)


def test_a_model_that_was_never_trained_comes_back(tmp_path):
    model = small()
    before = fingerprint(model)
    sk.save_model(model, tmp_path / "m.h5", verify="structure")
    assert fingerprint(model) == before
    loaded = sk.load_model(tmp_path / "m.h5")
    assert arrays(loaded.weights) == arrays(model.weights)
    train(loaded)


def test_a_subclassed_model_comes_back(tmp_path):
    model = Subclassed()
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(np.ones((4, 3), "float32"), np.ones((4, 2), "float32"), verbose=0)
    sk.save_model(model, tmp_path / "m.h5", verify="structure")
    same(sk.load_model(tmp_path / "m.h5"), model)


def test_what_a_layer_computes_on_saving_is_handed_back(tmp_path):
    model = keras.Sequential([keras.Input((4,)), Doubled(3)])
    model.compile("sgd", "mse")
    train(model)
    sk.save_model(model, tmp_path / "m.h5", verify="structure")
    sk.save_weights(model, tmp_path / "m.weights.h5")
    for name in ("m.h5", "m.weights.h5"):
        loaded = sk.load_model(tmp_path / name)
        same(loaded, model)
        np.testing.assert_array_equal(loaded.layers[0].twice, 2 * model.layers[0].kernel.numpy())


@keras.saving.register_keras_serializable("tests")
class Borrowing(layers.Layer):
    """Uses a layer that another uses too."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def build(self, shape):
        if not self.inner.built:
            self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return {
            **super().get_config(),
            "inner": keras.saving.serialize_keras_object(self.inner),
        }

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("inner")), **config)


def test_a_layer_that_two_others_share_becomes_two_in_keras_which_is_told(tmp_path):
    """What Keras's configuration forgets: its own `.keras` archive cannot be loaded at all."""
    inner = layers.Dense(4)
    model = keras.Sequential([keras.Input((4,)), Borrowing(inner), Borrowing(inner)])
    model.compile("adam", "mse")
    sk.save_model(train(model), tmp_path / "m.h5", verify="structure")
    same_predictions(keras.models.load_model(tmp_path / "m.h5"), model)
    with pytest.raises(sk.MismatchError, match="only in the model"):
        sk.load_model(tmp_path / "m.h5")


def test_code_that_is_not_given_is_asked_for_by_name(tmp_path):
    model = train(small(loss=homemade))
    with pytest.warns(sk.SavekitWarning, match=r"stock Keras alone cannot load it.*homemade"):
        sk.save_model(model, tmp_path / "m.h5")
    with pytest.raises(sk.ModelError, match=r"homemade(.|\n)*custom_objects="):
        sk.load_model(tmp_path / "m.h5")
    same(sk.load_model(tmp_path / "m.h5", custom_objects={"homemade": homemade}), model)


def test_what_stock_keras_wrote_is_loaded_as_stock_keras_does(tmp_path):
    model = train(small())
    model.save(tmp_path / "stock.keras")
    assert arrays(sk.load_model(tmp_path / "stock.keras").weights) == arrays(model.weights)


# Weights into a model that is there.


@pytest.mark.parametrize(
    "source", ["ours", "stock", "full", "checkpoint", "archive", "stock archive"]
)
def test_weights_are_loaded_and_the_optimizer_is_left_alone(source, tmp_path):
    model, other = train(small()), train(small(), seed=9)
    slots = arrays(other.optimizer.variables)
    names = {"full": "m.h5", "archive": "m.keras", "stock archive": "m.keras"}
    path = tmp_path / names.get(source, "m.weights.h5")
    if source == "ours":
        sk.save_weights(model, path)
    elif source == "stock":
        model.save_weights(path)
    elif source == "stock archive":
        model.save(path)
    elif source in {"archive", "full"}:
        sk.save_model(model, path, verify="bytes")
    else:
        path, _ = write(tmp_path, model)
    sk.load_weights(other, path)
    assert arrays(other.weights) == arrays(model.weights)
    if source != "stock archive":
        assert arrays(other.optimizer.variables) == slots


OTHERS = {
    "missing": [layers.Dense(8), layers.BatchNormalization(), layers.Dense(3), layers.Dense(3)],
    "extra": [layers.Dense(8)],
    "shape": [layers.Dense(9), layers.BatchNormalization(), layers.Dense(3)],
    "dtype": [layers.Dense(8, dtype="float64"), layers.BatchNormalization(), layers.Dense(3)],
}


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", r"missing in the file|only in the model"),
        ("extra", r"only in the (file|checkpoint)"),
        ("shape", r"float32\[4, 8\](.|\n)*float32\[4, 9\]"),
        ("dtype", r"float32\[4, 8\](.|\n)*float64\[4, 8\]"),
    ],
)
def test_weights_of_another_architecture_are_refused_with_the_differences(
    kind, said, stock, tmp_path
):
    model = train(small())
    if stock:
        model.save_weights(tmp_path / "m.weights.h5")
    else:
        sk.save_weights(model, tmp_path / "m.weights.h5")
    other = keras.Sequential([keras.Input((4,)), *OTHERS[kind]])
    before = arrays(other.weights)
    with pytest.raises(sk.MismatchError, match=said):
        sk.load_weights(other, tmp_path / "m.weights.h5")
    assert arrays(other.weights) == before


def test_a_layer_that_refuses_in_the_middle_leaves_the_model_as_it_was(tmp_path):
    class Refusing(layers.Dense):
        def load_own_variables(self, store):
            raise ValueError("not today")

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), Refusing(3)])
    model.save_weights(tmp_path / "m.weights.h5")
    before = arrays(model.weights)
    for weight in model.weights:
        weight.assign(weight + 1)
    changed = arrays(model.weights)
    with pytest.raises(sk.MismatchError, match="not today"):
        sk.load_weights(model, tmp_path / "m.weights.h5")
    assert arrays(model.weights) == changed != before


# A good file is never replaced by a bad one.


def test_a_save_that_fails_leaves_the_file_before_it(tmp_path, monkeypatch):
    path = tmp_path / "m.h5"
    model = train(small())
    sk.save_model(model, path, verify="bytes")
    good = path.read_bytes()
    real = single_file.write

    def damaging(target, *rest):
        manifest = real(target, *rest)
        content = bytearray(target.read_bytes())
        content[-5] ^= 1
        target.write_bytes(content)
        return manifest

    monkeypatch.setattr(single_file, "write", damaging)
    with pytest.raises(sk.SaveError, match=r"the written file is not good"):
        sk.save_model(train(model), path, verify="bytes")
    assert path.read_bytes() == good
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("save", "path", "said"),
    [
        (sk.save_model, "m.txt", r"ending in \.h5"),
        (sk.save_model, "m.weights.h5", r"ending in \.h5"),
        (sk.save_weights, "m.h5", r"ending in \.weights\.h5"),
        (sk.save_model, "gs://bucket/m.h5", "not a path in this machine"),
    ],
)
def test_a_name_that_does_not_fit_is_told_before_anything_is_written(
    save, path, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sk.ModelError, match=said):
        save(small(), path)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there_is_told(tmp_path):
    with pytest.raises(sk.DirectoryError, match="No such file"):
        sk.save_model(small(), tmp_path / "none" / "m.h5")


@keras.saving.register_keras_serializable("tests")
class Counting(keras.Model):
    """A model with a metric of its own."""

    def __init__(self, **config):
        super().__init__(**config)
        self.out = keras.layers.Dense(1)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, inputs):
        return self.out(inputs)


def test_metrics_of_the_models_own_come_back_and_the_loss(tmp_path):
    model = Counting()
    model.compile("sgd", "mse")
    x = np.ones((8, 3), "float32")
    model(x)
    model.fit(x, x[:, :1], verbose=0)
    model.seen.update_state([2.0, 4.0])
    sk.save_model(model, tmp_path / "m.h5", verify="structure")
    loaded = sk.load_model(tmp_path / "m.h5")
    assert float(loaded.seen.result()) == 3.0
    saved = {each.path: each.numpy() for each in model.metrics_variables}
    assert {each.path: each.numpy() for each in loaded.metrics_variables} == saved
    assert len(saved) == 4
    loaded.fit(x, x[:, :1], verbose=0)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_lambda_is_told_by_the_name_of_its_layer_before_it_is_saved(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Lambda(lambda x: x * 2, name="twice"),
            keras.layers.Dense(1),
        ]
    )
    with pytest.warns(sk.SavekitWarning, match=r"a lambda is part of layer twice: (.|\n)*named?"):
        sk.save_model(model, tmp_path / "m.h5", verify="structure")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", loss=lambda y, p: keras.ops.mean(y - p))
    with pytest.warns(sk.SavekitWarning, match="a lambda is part of the loss of compile: "):
        sk.save_model(model, tmp_path / "m.h5", verify="structure")


# Files that are damaged, foreign or hostile.


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    model = train(small())
    path = tmp_path_factory.mktemp("good") / "m.h5"
    sk.save_model(model, path, verify="bytes")
    return path.read_bytes()


def refused(path, match, kind=sk.CheckpointError):
    model = train(small())
    before = fingerprint(model)
    for load in (sk.load_model, lambda each: sk.load_weights(model, each)):
        with pytest.raises(kind, match=match) as caught:
            load(path)
        assert str(path) in str(caught.value)
    assert fingerprint(model) == before


def test_a_flipped_bit_in_a_tensor_of_an_archive_is_refused(tmp_path):
    model = train(small())
    sk.save_model(model, tmp_path / "m.keras", verify="bytes")
    content = bytearray((tmp_path / "m.keras").read_bytes())
    content[content.index(model.weights[0].numpy().tobytes()) + 1] ^= 1
    (tmp_path / "m.keras").write_bytes(content)
    refused(tmp_path / "m.keras", "is damaged: weight .*kernel is not what was in memory")


def test_a_flipped_bit_in_an_archive_is_found(tmp_path):
    sk.save_model(train(small()), tmp_path / "m.keras", verify="bytes")
    content = bytearray((tmp_path / "m.keras").read_bytes())
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert archive.testzip() is None
    spot = len(content) // 2
    content[spot] ^= 1
    (tmp_path / "m.keras").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert archive.testzip() == "model.weights.h5"


@pytest.mark.parametrize("size", [0, 10, 2000, -1])
def test_a_truncated_file_is_refused(good, size, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(good[:size])
    refused(path, "cannot be read|damaged")


def test_a_flipped_bit_in_any_tensor_is_found(good, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(good)
    with h5py.File(path) as file:
        spots = []
        file.visititems(
            lambda name, item: (
                spots.append(item.id.get_offset())
                if isinstance(item, h5py.Dataset) and item.size
                else None
            )
        )
    assert len(spots) > 20
    for spot in spots:
        content = bytearray(good)
        content[spot] ^= 4
        path.write_bytes(content)
        with pytest.raises(sk.CheckpointError, match=r"damaged|changed since|malformed"):
            sk.load_model(path)


@pytest.mark.parametrize("name", ["m.h5", "m.keras", "m.weights.h5"])
def test_a_file_of_something_else_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"MZ" + bytes(5000))
    refused(tmp_path / name, "cannot be read|not a zip archive")


def test_a_file_that_is_not_there_is_told(tmp_path):
    refused(tmp_path / "none.h5", "no such file")


def _with_link(file):
    del file["model_weights"]
    file["model_weights"] = h5py.ExternalLink("/etc/passwd", "/")


def _with_external_data(file):
    file.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def _with_terabytes(file):
    file.create_dataset("x", (2**40,), "f4", chunks=(2**20,))


def _with_soft_link(file):
    file["x"] = h5py.SoftLink("/model_weights")


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (_with_link, "link to another place"),
        (_with_soft_link, "link to another place"),
        (_with_external_data, "keeps its data in other files"),
        (_with_terabytes, "claims 4398046511104 bytes"),
    ],
)
def test_a_hostile_file_is_refused_before_anything_is_allocated(good, harm, match, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(good)
    with h5py.File(path, "r+") as file:
        harm(file)
    refused(path, match)


def test_an_architecture_that_is_not_json_is_refused(good, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(good)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = "{'class_name': os.system}"
    with pytest.raises(sk.CheckpointError, match="not JSON"):
        sk.load_model(path)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_an_archive_that_leads_out_is_refused(name, tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
        archive.writestr("config.json", json.dumps({}))
    refused(path, "leads out of the archive")
    assert not (tmp_path.parent / "evil").exists()


def test_an_archive_that_expands_beyond_measure_is_refused(tmp_path):
    path = tmp_path / "m.keras"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("model.weights.h5", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(2**20))
    refused(path, "claims 314572800 bytes")


def test_python_code_in_a_file_is_not_run(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 2)])
    with pytest.warns(sk.SavekitWarning, match="lambda"):
        sk.save_model(model, tmp_path / "m.h5")
    with pytest.raises(
        sk.ModelError, match=r"contains Python code, which is not run: a lambda in layer"
    ):
        sk.load_model(tmp_path / "m.h5")


def sentinel(tmp_path):
    """A lambda that leaves a trace where it is run, and the trace."""
    trace = tmp_path / "it ran"
    code = f"lambda x: x * (1 if not open({str(trace)!r}, 'w') else 2)"
    return eval(code), trace  # the path is a constant of the code, as in a hostile file


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_lambda_that_stock_keras_saved_runs_only_with_safe_mode_false(tmp_path, name):
    function, trace = sentinel(tmp_path)
    net = [keras.Input((4,)), layers.Lambda(function, name="twice"), layers.Dense(1)]
    model = keras.Sequential(net)
    model.compile("sgd", keras.losses.MeanSquaredError())
    model.save(tmp_path / name)
    trace.unlink()
    with pytest.raises(sk.ModelError) as caught:
        sk.load_model(tmp_path / name)
    assert str(caught.value) == (
        f"contains Python code, which is not run: a lambda in layer twice [{tmp_path / name}]\n"
        "  if you trust the origin of the file, load it with safe_mode=False"
    )
    assert not trace.exists()
    loaded = sk.load_model(tmp_path / name, safe_mode=False)
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert trace.exists()


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_lambda_in_what_compile_was_given_is_not_run_either(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile("sgd", loss=lambda y, p: keras.ops.mean(y - p))
    model.save(tmp_path / "m.keras")
    with pytest.raises(sk.ModelError, match="not run: a lambda in the loss of compile"):
        sk.load_model(tmp_path / "m.keras")
    assert callable(sk.load_model(tmp_path / "m.keras", safe_mode=False).loss)


HOSTILE = {
    "a lambda in layer old": {
        "class_name": "Lambda",
        "config": {"name": "old", "function": ["4wEA", None, None], "function_type": "lambda"},
    },
    "a SavedModel, from elsewhere on the disk in layer other": {
        "class_name": "TFSMLayer",
        "module": "keras.layers",
        "config": {"name": "other", "filepath": "/tmp/evil"},
    },
    "a pickled PyTorch module in layer torch": {
        "class_name": "TorchModuleWrapper",
        "module": "keras.layers",
        "config": {"name": "torch", "module": "gASVAA=="},
    },
    "it needs os.system, which is not registered": {
        "class_name": "Lambda",
        "module": "keras.layers",
        "config": {
            "name": "shell",
            "function": {
                "class_name": "function",
                "module": "os",
                "config": "system",
                "registered_name": "system",
            },
        },
    },
}


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize("said", HOSTILE)
def test_other_code_that_a_file_would_have_run_is_named_and_not_imported(tmp_path, said, name):
    layer = HOSTILE[said]
    hidden = {"class_name": "TimeDistributed", "config": {"name": "around", "layer": layer}}
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [hidden]}}
    path = tmp_path / name
    if name == "m.keras":
        with h5py.File(tmp_path / "w.h5", "w"):
            pass
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": keras.__version__}))
            archive.writestr("config.json", json.dumps(config))
            archive.write(tmp_path / "w.h5", "model.weights.h5")
    else:
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps(config)
            file.create_group("model_weights")
    with pytest.raises(sk.ModelError, match=said):
        sk.load_model(path)


def test_an_architecture_that_cannot_be_looked_through_is_refused(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = "{"
    with pytest.raises(sk.CheckpointError, match="its architecture cannot be read"):
        sk.load_model(tmp_path / "m.h5")


def test_predictions_after_loading_are_equal(tmp_path):
    model = train(small())
    sk.save_model(model, tmp_path / "m.h5", verify="bytes")
    x, _ = batch(model)
    expected = model.predict(x, verbose=0)
    loaded = sk.load_model(tmp_path / "m.h5")
    loaded.run_eagerly = True
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)


def with_normalization(*adapted):
    layer = layers.Normalization()
    made = keras.Sequential([keras.Input((3,)), layer, layers.Dense(1)])
    for values in adapted:
        layer.adapt(values)
    return made


def test_an_adapted_normalization_computes_with_what_it_had_learned(tmp_path):
    x = np.random.default_rng(0).normal(5, 3, (64, 3)).astype("float32")
    made = with_normalization(x)
    expected = made(x).numpy()
    for name in ("m.h5", "m.keras"):
        sk.save_model(made, tmp_path / name, verify="structure")
        np.testing.assert_array_equal(sk.load_model(tmp_path / name)(x), expected)
    sk.save_weights(made, tmp_path / "m.weights.h5")
    other = with_normalization()
    sk.load_weights(other, tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(other(x), expected)


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_a_model_file_gives_its_optimizer_inside_of_its_checkpoint_and_copied_elsewhere(
    build, tmp_path
):
    model = train(build())
    checkpoint, _ = write(tmp_path, model)
    same(sk.load_model(checkpoint / "model.h5"), model)
    shutil.copy(checkpoint / "model.h5", tmp_path / "copied.h5")
    alone = sk.load_model(tmp_path / "copied.h5")
    assert arrays(alone.weights) == arrays(model.weights)
    assert arrays(alone.optimizer.variables) == arrays(model.optimizer.variables)
    train(alone, seed=4)
    assert not sk.load_model(tmp_path / "copied.h5", compile=False).compiled


def test_a_manifest_of_another_program_beside_a_file_is_ignored(tmp_path):
    model = train(small())
    sk.save_model(model, tmp_path / "m.h5", verify="bytes")
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    same(sk.load_model(tmp_path / "m.h5"), model)
