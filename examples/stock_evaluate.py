"""Load a saved model with stock Keras alone and print its accuracy on held-out digits.

    python examples/stock_evaluate.py runs/digits/best/model.h5

This program does not import keras_savekit: the model is an ordinary Keras file.
"""

import sys

import keras
from digits_data import digits


def main():
    """Evaluate the model whose path is the first argument."""
    model = keras.models.load_model(sys.argv[1])
    _, (x, y) = digits()
    _, accuracy = model.evaluate(x, y, verbose=0)
    if any(name.startswith("keras_savekit") for name in sys.modules):
        sys.exit("keras_savekit was imported")
    print(f"{accuracy:.4f}")


if __name__ == "__main__":
    main()
