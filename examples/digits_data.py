"""scikit-learn's handwritten digits: 1,797 real images of 8x8."""

import numpy as np
from sklearn.datasets import load_digits

HELD_OUT = 360


def digits():
    """(training x, y), (held-out x, y); x in 0..1 of shape (n, 8, 8, 1)."""
    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], labels[order].astype(np.int32)
    return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])
