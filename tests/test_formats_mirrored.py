"""`tf.distribute.MirroredStrategy` gives the same files."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# Logical devices must be set before TensorFlow begins, so this is a process of its own.
SCRIPT = """
import sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, {tests!r})
import formats_models as models
import keras_savekit as sk
directory = Path({directory!r})
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = models.small(jit_compile=False)
x, y = models.batch(model, samples=8)
model.fit(x, y, batch_size=4, verbose=0)
snapshot = models.snapshot_of(model)
before = models.arrays(model.weights)
checkpoint, manifest = models.write(directory, model)
weights, _ = models.write(directory, model, "weights")
sk.save_model(model, directory / "m.h5", verify="structure")
sk.save_model(model, directory / "m.keras", verify="structure")
model.save_weights(directory / "stock.weights.h5")
model.fit(x, y, batch_size=4, verbose=0)
from keras_savekit.base.tensors import as_array
taken = [as_array(each) for each in snapshot.tensors[:len(model.weights)]]
assert [each.tobytes() for each in taken] == [each[2] for each in before]
for path in (checkpoint / "model.h5", directory / "m.h5", directory / "m.keras"):
    assert models.arrays(keras.models.load_model(path).weights) == before, path
loaded = sk.load_model(checkpoint)
assert models.arrays(loaded.weights) == before
models.train(loaded)
import h5py
stock, ours = (h5py.File(p) for p in (directory / "stock.weights.h5", weights / "model.weights.h5"))
names = []
stock.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
assert len(names) > 20
assert all(stock[name][()].tobytes() == ours[name][()].tobytes() for name in names)
sk.load_weights(model, directory / "m.h5")
assert models.arrays(model.weights) == before
"""


def test_two_replicas_give_the_files_that_one_gives(tmp_path):
    from pathlib import Path

    script = SCRIPT.format(tests=str(Path(__file__).parent), directory=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
