"""The process's own random generators: those that `keras.utils.set_random_seed` sets.

Python's, NumPy's, TensorFlow's and Keras's. Layers have seed generators of their
own, which are variables of the model and saved with it. TensorFlow keeps the
state of its generators private: this is the one room that reaches for it, and
`tests/test_randomness.py` fails when a version changes it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random import seed_generator
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

_KERAS = "global_seed_generator"


def state() -> dict[str, Any]:
    """All generators as they stand, as JSON values, arrays and tensors; None if never used.

    Of a generator whose state is a variable, a reference: reading it out would wait for
    everything that a GPU still has to do.
    """
    name, key, position, has_gauss, gauss = np.random.get_state(legacy=True)
    eager = _eager_generator()
    keras_own = global_state.get_global_attribute(_KERAS)
    tensorflow_own = stateful_random_ops.global_generator
    return {
        "python": random.getstate(),
        "numpy": [name, key, position, has_gauss, gauss],
        "tensorflow": None if eager is None else [context.global_seed(), eager.getstate()],
        "generator": None if tensorflow_own is None else tensorflow_own.state.read_value(),
        "keras": None if keras_own is None else keras_own.state.value.read_value(),
    }


def restore(saved: Mapping[str, Any]) -> None:
    """Put every generator back to what `state` returned, also after a way through JSON."""
    random.setstate(_tuples(saved["python"]))
    np.random.set_state(tuple(saved["numpy"]))
    if saved["tensorflow"] is not None:
        seed, generator = saved["tensorflow"]
        tf.random.set_seed(seed)
        _eager_generator().setstate(_tuples(generator))
    if saved["generator"] is not None:
        tf.random.get_global_generator().reset(saved["generator"])
    if saved["keras"] is None:
        # Keras makes it when it is first used, with a seed drawn from Python's generator.
        global_state.set_global_attribute(_KERAS, None)
    else:
        seed_generator.global_seed_generator().state.assign(saved["keras"])


def of_kernels(model: Any) -> tuple[str, ...]:
    """What is said of layers whose graphs draw numbers inside TensorFlow's kernels."""
    return tuple(
        f"layer {layer.name} draws random numbers inside TensorFlow ({', '.join(drawing)}), which"
        " nobody can set; use tf.random.Generator or tf.random.stateless_* in the source"
        for layer in model._flatten_layers()
        if (drawing := getattr(layer, "random_operations", ()))
    )


def _eager_generator() -> Any:
    """What TensorFlow draws the seeds of operations from, once a global seed is set."""
    return getattr(context.context(), "_rng", None) if context.global_seed() is not None else None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value
