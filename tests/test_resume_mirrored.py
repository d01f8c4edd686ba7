"""A training of two replicas that was stopped goes on as if it had not been."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Logical devices must be set before TensorFlow begins, so this is a process of its own.
SCRIPT = """
import sys
from pathlib import Path
import keras, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, {tests!r})
import keras_savekit as sk
from training_builders import STEPS, Interrupt, data, digest, fit, model, names, plan, policy
directory = Path({directory!r})
every_step = policy(plan("every 1 step", when_busy="wait"))
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def train(place, *before, seed=7, on=None):
    on = data() if on is None else on
    kit = sk.SaveKit(every_step, directory=directory / place, data=on)
    with strategy.scope():
        made = model(seed=seed, jit_compile=False)
    history = fit(made, kit, *before, on=on, epochs=3)
    return (digest(made), history.history), kit

whole, _ = train("whole")
for stop in (2, STEPS + 3, 2 * STEPS):
    place = f"after {{stop}}"
    try:
        train(place, Interrupt(stop))
    except KeyboardInterrupt:
        pass
    found, kit = train(place, seed=99)
    told = kit.resumed
    assert (told.level, told.reasons) == ("exact", ()), told
    assert told.moment.step == stop, told
    assert found == whole, stop
    assert names(directory / place) == names(directory / "whole")
dataset = tf.data.Dataset.from_tensor_slices(([[1.0, 2.0, 3.0]] * 8, [[1.0]] * 8)).batch(4)
try:
    train("function", on=sk.resumable(lambda epoch: dataset))
except sk.DataError as error:
    assert "it; give resumable() arrays under one" in str(error), error
else:
    raise AssertionError("a function of the epoch was taken")
"""


def test_two_replicas_go_on_exactly(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parent), directory=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
