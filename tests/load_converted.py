"""Load converted models with stock Keras in a process that has only the files, and train them.

python load_converted.py FOLDER EPOCHS FILE ...
"""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras_savekit  # isort: skip  # noqa: F401 - before Keras: registration must work in this order too

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# Graph optimization depends on the surrounding graph, and changes the rounding.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

keras.config.enable_unsafe_deserialization()  # for model_from_json, and .h5 of old versions
folder, epochs, files = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
for home in sorted(folder.iterdir()):
    x, y, *_ = np.load(home / "own.npz").values()
    for file in files:
        if file.endswith(".weights.h5"):
            model = keras.models.model_from_json((home / "m.json").read_text())
            model.load_weights(home / file)
            model.compile(keras.optimizers.SGD(0.125), "mean_squared_error")
        else:
            model = keras.models.load_model(home / file, safe_mode=False)
        predicted = model.predict(x, verbose=0)
        model.fit(x, y, batch_size=len(x), epochs=epochs, shuffle=False, verbose=0)
        np.savez(home / f"{file}.npz", predicted, *(weight.numpy() for weight in model.weights))
