"""The random generators of the process: those that `keras.utils.set_random_seed` sets.

They are Python's, NumPy's, TensorFlow's and Keras's. Layers have their own seed
generators, which are variables of the model and are saved with it. TensorFlow keeps
the state of its generators private. Only this module uses it, and
`tests/test_randomness.py` fails when a version changes it.

Another backend replaces the entries "tensorflow" and "generator" of the state by its
own. The names of the entries are on disk, so they do not change.
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
    """Return the state of all generators as JSON values, arrays and tensors.

    A generator that was never used has None. A backend must guarantee:

    - The call changes no generator, and later draws do not change the returned state.
    - The state of a generator that is a variable is a reference. Copying it to the
      host would wait for all work that a GPU has queued.
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
    """Restore every generator to what `state` returned, also after JSON encoding.

    A backend must guarantee that all later draws equal those after `state`.
    """
    random.setstate(_tuples(saved["python"]))
    np.random.set_state(tuple(saved["numpy"]))
    if saved["tensorflow"] is not None:
        seed, generator = saved["tensorflow"]
        tf.random.set_seed(seed)
        _eager_generator().setstate(_tuples(generator))
    if saved["generator"] is not None:
        tf.random.get_global_generator().reset(saved["generator"])
    if saved["keras"] is None:
        # Keras makes it at its first use, with a seed from Python's generator.
        global_state.set_global_attribute(_KERAS, None)
    else:
        seed_generator.global_seed_generator().state.assign(saved["keras"])


def drawing_in_kernels(model: Any) -> tuple[str, ...]:
    """Return a sentence for each layer that draws numbers inside TensorFlow's kernels.

    No state restores those numbers, so a resume with such a layer is not exact.
    """
    return tuple(
        f"layer {layer.name} draws random numbers inside TensorFlow ({', '.join(operations)}),"
        " whose state cannot be restored; use tf.random.Generator or tf.random.stateless_* in the"
        " source"
        for layer in model._flatten_layers()
        if (operations := getattr(layer, "random_operations", ()))
    )


def _eager_generator() -> Any:
    """Return the generator of operation seeds; None if no global seed is set."""
    return getattr(context.context(), "_rng", None) if context.global_seed() is not None else None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
