"""One model of every family of `keras.applications`, through a checkpoint and back.

    python benchmarks/sweep.py [name ...]
    python benchmarks/sweep.py --weights 60000

Each, with random weights, is trained for two steps with the callback, loaded by
stock Keras and by `sk.load_model`, compared in everything, asked for the same
predictions, and trained on. Prints a table; exits with 1 if anything differed.
With `--weights`, a model of one layer with so many weights, of which a file of
stock Keras would lose the names, is saved and loaded.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_savekit as sk

# The smallest of each family, and the smallest input it takes.
FAMILIES = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "Xception": 71,
}


def check(name, directory):
    """What of `name` did not survive: an empty list if everything did."""
    size = FAMILIES[name]
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=3)
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    generator = np.random.default_rng(0)
    x = generator.random((4, size, size, 3)).astype("float32")
    y = np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    kit = sk.FullModelSaver(directory, when="train_end", verify="load")
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[kit])
    saved = Path(directory) / "latest"
    stock, ours = keras.models.load_model(saved / "model.h5"), sk.load_model(saved)
    wrong = []
    for who, loaded in (("stock", stock), ("sk", ours)):
        loaded.run_eagerly = True
        wrong += _differing(f"{who} weights", loaded.weights, model.weights)
        if not np.array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0)):
            wrong.append(f"{who} predictions")
    wrong += _differing("sk optimizer", ours.optimizer.variables, model.optimizer.variables)
    for loaded in (stock, ours):
        loaded.fit(x, y, verbose=0)
    return wrong


def _differing(what, loaded, model):
    same = len(loaded) == len(model) and all(
        np.array_equal(each.numpy(), other.numpy(), equal_nan=each.dtype.startswith("float"))
        for each, other in zip(loaded, model, strict=True)
    )
    return [] if same else [what]


@keras.saving.register_keras_serializable("sweep")
class Many(keras.layers.Layer):
    """A layer with a great many weights."""

    def __init__(self, count, **config):
        super().__init__(**config)
        self.count = count

    def build(self, shape):
        """Make them, each with another value."""
        self.parts = [
            self.add_weight(shape=(1,), initializer=keras.initializers.Constant(float(each)))
            for each in range(self.count)
        ]

    def call(self, inputs):
        """Use the first of them."""
        return inputs * self.parts[0]

    def get_config(self):
        """How many there are."""
        return {**super().get_config(), "count": self.count}


def check_many(count, directory):
    """As `check`, for a model with `count` weights."""
    model = keras.Sequential([keras.Input((1,)), Many(count)])
    path = Path(directory) / "m.h5"
    sk.save_model(model, path, verify="structure")
    wrong = []
    for who, load in (("stock", keras.models.load_model), ("sk", sk.load_model)):
        wrong += _differing(f"{who} weights", load(path).weights, model.weights)
    return wrong


def main():
    """Check the families named on the command line, or all."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", help=f"of {', '.join(FAMILIES)}")
    arguments.add_argument("--weights", type=int, default=0)
    given = arguments.parse_args()
    print(f"| Keras {keras.__version__} | comes back | seconds |\n|---|---|---|")
    failed = 0
    many = [f"{given.weights:,} weights"] if given.weights else []
    for name in given.names or many or FAMILIES:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            wrong = check_many(given.weights, directory) if many else check(name, directory)
        failed += bool(wrong)
        outcome = f"no: {', '.join(wrong)}" if wrong else "yes"
        print(f"| {name} | {outcome} | {time.monotonic() - began:.0f} |", flush=True)
        keras.backend.clear_session()
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
