"""What the tests of formats share: small trained models, their checkpoints, exact comparison."""

import json
from pathlib import Path

import keras
import numpy as np
import xxhash

from keras_savekit.base.moment import Moment
from keras_savekit.formats import checkpoint
from keras_savekit.formats.checkpoint import Purpose
from keras_savekit.formats.registry import FORMATS
from keras_savekit.model.capture import Capture
from keras_savekit.model.live_variables import build_optimizer
from keras_savekit.model.structure import LiveModel
from keras_savekit.store.manifest import MANIFEST, FileEntry
from keras_savekit.store.manifest_json import to_json

layers = keras.layers


def numbers(shape, dtype="float32", seed=0):
    """Reproducible values in (0, 1), or small integers."""
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        return generator.integers(0, 4, shape).astype(dtype)
    return generator.random(shape).astype(dtype)


def batch(model, samples=4, seed=0):
    """Inputs and targets that fit the model's own shapes and dtypes."""

    def fill(tensors):
        found = [
            numbers(
                (samples, *(each or 5 for each in tensor.shape[1:])),
                tensor.dtype if "int" in tensor.dtype else "float32",
                seed,
            )
            for tensor in tensors
        ]
        return found if len(found) > 1 else found[0]

    return fill(model.inputs), fill(model.outputs)


def train(model, steps=2, seed=0, *, eagerly=True):
    """Train on a few batches of its own shapes; compiling takes longer than that."""
    x, y = batch(model, seed=seed)
    model.run_eagerly = eagerly
    for _ in range(steps):
        model.train_on_batch(x, y)
    return model


def small(optimizer="adam", **compiled):
    """Dense, Dropout and BatchNormalization: every kind of state that most models have."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.2, seed=3),
            layers.BatchNormalization(),
            layers.Dense(3),
        ]
    )
    model.compile(optimizer, **{"loss": "mean_squared_error", "metrics": ["mae"], **compiled})
    return model


def snapshot_of(model, step=2, state=None):
    """The model's state now."""
    if model.compiled:
        build_optimizer(model)
    return Capture(LiveModel(model))(Moment(step=step), state or {}, {})


def write(directory, model, save="model", form=None, compression=None):
    """A checkpoint of the model in a new directory: (directory, manifest)."""
    directory = Path(directory) / f"{form or save}-{len(list(Path(directory).iterdir()))}"
    directory.mkdir()
    form = form or {"model": "h5", "weights": "weights.h5"}[save]
    purpose = Purpose("run", "plan", ("asked",), 0.0, FORMATS[form], compression)
    return directory, checkpoint.write(directory, snapshot_of(model), purpose)


def seal_again(directory, manifest, **changes):
    """Make the manifest match changed files, so that only loading finds the change."""
    files = tuple(
        FileEntry(each.name, len(content), xxhash.xxh3_128_hexdigest(content))
        for each in manifest.files
        for content in [(directory / each.name).read_bytes()]
    )
    values = {name: getattr(manifest, name) for name in manifest.__slots__}
    sealed = type(manifest)(**{**values, "files": files, **changes})
    (directory / MANIFEST).write_bytes(to_json(sealed))


def arrays(variables):
    """The bytes of variables, with dtype and shape."""
    found = (np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables)
    return [(str(each.dtype), each.shape, each.tobytes()) for each in found]


def fingerprint(model):
    """Everything about a live model that a save must not change."""
    return {
        "weights": arrays(model.weights),
        "variables": arrays(model.variables),
        "optimizer": arrays(model.optimizer.variables) if model.compiled else None,
        "paths": [variable.path for variable in model.variables],
        "trainable": [(layer.name, layer.trainable) for layer in model._flatten_layers()],
        "compile": json.dumps(model.get_compile_config()) if model.compiled else None,
        "config": json.dumps(keras.saving.serialize_keras_object(model)),
    }
