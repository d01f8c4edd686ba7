"""Functions that Keras traced, and the wrappers around them while a `fit` is watched.

Private Keras API: the attributes in which a model keeps its traced functions.
`tests/test_keras_private.py` and `tests/test_layer_loading.py` fail when a version of Keras
changes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Wrapper:
    """What a wrapper contains; several sessions may watch one model.

    inner: the wrapped function.
    inner_was_own: whether the owner itself had that attribute, and not its class.
    needed: whether a session still watches through this wrapper.
    """

    inner: Any
    inner_was_own: bool
    needed: bool = True


WRAPPER = "savekit_layer"


def unwrap(owner: Any, name: str, wrapper: Wrapper) -> None:
    """Remove every wrapper that is no longer needed, the outermost first."""
    wrapper.needed = False
    while True:
        outermost = getattr(vars(owner).get(name), WRAPPER, None)
        if outermost is None or outermost.needed:
            return  # also if the model was compiled again in the meantime
        if outermost.inner_was_own:
            object.__setattr__(owner, name, outermost.inner)
        else:
            object.__delattr__(owner, name)


def discard_traces(model: Any) -> None:
    """Make `fit`, `evaluate` and `predict` trace their functions again.

    A traced function contains tensors and tables of layers as constants, which are out of
    date once a layer has new ones. Works within a `fit` too, watched or not.
    """
    for layer in model._flatten_layers():
        for name in ("test_function", "predict_function"):
            if getattr(layer, name, None) is not None:
                setattr(layer, name, None)
        if getattr(layer, "train_function", None) is not None:
            _remake_train_function(layer)


def _remake_train_function(model: Any) -> None:
    """Replace the train function inside its wrappers."""
    watched, innermost = model.train_function, None
    wrapper = getattr(watched, WRAPPER, None)
    while wrapper is not None:
        innermost, wrapper = wrapper, getattr(wrapper.inner, WRAPPER, None)
    model.make_train_function(force=True)
    if innermost is not None:
        innermost.inner = model.train_function
        object.__setattr__(model, "train_function", watched)
