"""Train on handwritten digits with a save policy. If it is killed, the same command resumes it.

python examples/digits.py --directory runs/digits
"""

import argparse
from pathlib import Path

import keras
from digits_data import digits

import keras_savekit as sk

POLICY = Path(__file__).parent.parent / "configs" / "best-and-latest.yaml"


def build():
    """Return a small convolutional network, compiled."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(128, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(128, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main():
    """Train the epochs that are left."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--directory", default="runs/digits")
    arguments.add_argument("--epochs", type=int, default=12)
    options = arguments.parse_args()

    keras.utils.set_random_seed(7)
    (x, y), held_out = digits()
    data = sk.resumable(x, y, batch_size=32, seed=7)
    kit = sk.SaveKit(POLICY, directory=options.directory, data=data)
    build().fit(
        data,
        shuffle=False,  # the data shuffles itself in every epoch
        validation_data=held_out,
        epochs=options.epochs,
        callbacks=[kit],
        verbose=2,
    )


if __name__ == "__main__":
    main()
