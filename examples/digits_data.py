"""The handwritten digits of scikit-learn: 1,797 images of 8x8 pixels."""

import numpy as np
from sklearn.datasets import load_digits

HELD_OUT = 360


def digits():
    """Return (training x, y), (held-out x, y); x has values from 0 to 1 and shape (n, 8, 8, 1)."""
    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], labels[order].astype(np.int32)
    return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])
