"""Train and save a model written with low-level TensorFlow as a Keras model.

python examples/from_tf_module.py
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_savekit as sk


class Network(tf.Module):
    """Two layers and a running mean of the inputs, without Keras."""

    def __init__(self):
        super().__init__(name="network")
        self.hidden = tf.Variable(tf.random.normal([8, 16], stddev=0.3, seed=1), name="hidden")
        self.out = tf.Variable(tf.random.normal([16, 1], stddev=0.3, seed=2), name="out")
        self.mean = tf.Variable(tf.zeros([8]), trainable=False, name="mean")

    def __call__(self, x, training=False):
        """Return one number for each row."""
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(x, 0))
        return tf.nn.relu((x - self.mean) @ self.hidden) @ self.out


model = sk.to_keras(Network(), inputs=(None, 8))
model.summary()

x = np.random.default_rng(0).normal(size=(512, 8)).astype("float32")
model.compile("adam", "mse")
kit = sk.FullModelSaver("runs/network", when="every epoch", keep="last 2", verify="load")
model.fit(x, x.sum(1), epochs=5, verbose=2, callbacks=[kit])

# Another process needs `import keras_savekit`, but not the class `Network`. The file contains a
# graph, which is code: `safe_mode=False` allows it.
loaded = keras.models.load_model("runs/network/latest/model.h5", safe_mode=False)
assert np.array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
