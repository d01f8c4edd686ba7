"""Functions that Keras traced, and what is put around them while a `fit` is watched.

Private Keras API: the attributes under which a model keeps its traced functions.
`tests/test_keras_private.py` and `tests/test_layer_loading.py` fail when a version of Keras
changes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Wrapper:
    """What a watched function was put around; several sessions may watch one model."""

    inner: Any
    inner_was_own: bool
    needed: bool = True


WRAPPER = "savekit_layer"


def unwrap(owner: Any, name: str, layer: Wrapper) -> None:
    """Take off every layer that nobody needs any more, from the outside."""
    layer.needed = False
    while True:
        outermost = getattr(vars(owner).get(name), WRAPPER, None)
        if outermost is None or outermost.needed:
            return  # also when the model was compiled anew in the meantime
        if outermost.inner_was_own:
            object.__setattr__(owner, name, outermost.inner)
        else:
            object.__delattr__(owner, name)


def forget_traces(model: Any) -> None:
    """Make `fit`, `evaluate` and `predict` trace their functions anew.

    For when layers have other tensors or tables than before, which functions hold as
    constants. Also within a `fit`, watched or not.
    """
    for layer in model._flatten_layers():
        for name in ("test_function", "predict_function"):
            if getattr(layer, name, None) is not None:
                setattr(layer, name, None)
        if getattr(layer, "train_function", None) is not None:
            _make_train_function_anew(layer)


def _make_train_function_anew(model: Any) -> None:
    watched, innermost = model.train_function, None
    wrapper = getattr(watched, WRAPPER, None)
    while wrapper is not None:
        innermost, wrapper = wrapper, getattr(wrapper.inner, WRAPPER, None)
    model.make_train_function(force=True)
    if innermost is not None:
        innermost.inner = model.train_function
        object.__setattr__(model, "train_function", watched)
