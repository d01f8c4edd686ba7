"""Ordinary models saved as `.h5`, read by stock Keras, and trained on: by `model.save` and by us.

    python benchmarks/stock_h5.py

Each is trained, saved, loaded by `keras.models.load_model`, compared weight by
weight, and given one more `fit`. Prints the table of docs/formats.md.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np

import keras_savekit as sk

layers, applications = keras.layers, keras.applications


def _application(build, size=32, **options):
    def made():
        model = build(weights=None, input_shape=(size, size, 3), classes=3, **options)
        model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
        return model

    return made


def _sequential(*stack, optimizer="adam", loss="mean_squared_error"):
    def made():
        model = keras.Sequential([keras.Input((6, 4)), *(make() for make in stack)])
        model.compile(optimizer() if callable(optimizer) else optimizer, loss)
        return model

    return made


def _two_inputs_and_outputs():
    left, right = keras.Input((4,)), keras.Input((4,))
    shared = layers.Dense(4)
    hidden = layers.Concatenate()([shared(left), shared(right)])
    model = keras.Model([left, right], [layers.Dense(2)(hidden), layers.Dense(3)(hidden)])
    model.compile("adam", ["mean_squared_error", "mean_absolute_error"])
    return model


def _attention():
    inputs = keras.Input((6, 4))
    attended = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    model = keras.Model(inputs, layers.LayerNormalization()(layers.Add()([inputs, attended])))
    model.compile("adam", "mean_squared_error")
    return model


@keras.saving.register_keras_serializable("benchmark")
class Twins(layers.Layer):
    """Two sublayers of one name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(4, name="same"), layers.Dense(4, name="same")

    def build(self, shape):
        """Build both."""
        self.first.build(shape)
        self.second.build(shape)

    def call(self, x):
        """Apply one after the other."""
        return self.second(self.first(x))


def _dense(dtype="float32"):
    return lambda: layers.Dense(4, dtype=dtype)


ADAM = keras.optimizers.Adam
MODELS = {
    "EfficientNetV2B0": _application(applications.EfficientNetV2B0),
    "ConvNeXtTiny": _application(applications.ConvNeXtTiny),
    "MobileNetV3Small": _application(applications.MobileNetV3Small),
    "DenseNet121": _application(applications.DenseNet121),
    "two inputs, two outputs": _two_inputs_and_outputs,
    "recurrent": _sequential(lambda: layers.Bidirectional(layers.GRU(4))),
    "attention": _attention,
    "bfloat16": _sequential(_dense("bfloat16"), _dense("bfloat16")),
    "Adafactor": _sequential(_dense(), _dense(), optimizer="adafactor"),
    "EMA of weights": _sequential(_dense(), optimizer=lambda: ADAM(use_ema=True)),
    "gradient accumulation": _sequential(
        _dense(), optimizer=lambda: ADAM(gradient_accumulation_steps=2)
    ),
    "loss scaling": _sequential(
        _dense(), optimizer=lambda: keras.optimizers.LossScaleOptimizer(ADAM())
    ),
    "equal sublayer names": _sequential(Twins),
}


def _values(tensors):
    generator = np.random.default_rng(0)
    found = [generator.random((2, *tensor.shape[1:])).astype("float32") for tensor in tensors]
    return found if len(found) > 1 else found[0]


def outcome(model, save, path):
    """What becomes of the model by way of a file: `yes`, or the step that failed and why."""
    data = _values(model.inputs), _values(model.outputs)
    step = "save"
    try:
        save(model, path)
        step = "load"
        loaded = keras.models.load_model(path)
        step = "compare"
        for ours, theirs in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
        step = "fit"
        loaded.run_eagerly = True
        loaded.fit(*data, verbose=0)
    except Exception as error:  # noqa: BLE001 - whatever stops a user is the outcome
        return f"no: {step}: {type(error).__name__}"
    return "yes"


def main():
    """Print the table."""
    warnings.simplefilter("ignore")
    print(f"| Keras {keras.__version__} | `model.save` | `sk.save_model` |\n|---|---|---|")
    survived = [0, 0]
    for name, build in MODELS.items():
        found = []
        for index, save in enumerate((lambda m, p: m.save(p), _save_with_savekit)):
            model = build()
            model.run_eagerly = True
            model.fit(_values(model.inputs), _values(model.outputs), verbose=0)
            with tempfile.TemporaryDirectory() as folder:
                found.append(outcome(model, save, Path(folder) / "m.h5"))
            survived[index] += found[-1] == "yes"
        print(f"| {name} | {found[0]} | {found[1]} |", flush=True)
    stock, ours = (f"**{count} of {len(MODELS)}**" for count in survived)
    print(f"| **survived** | {stock} | {ours} |")


def _save_with_savekit(model, path):
    sk.save_model(model, path, verify="structure")


if __name__ == "__main__":
    main()
