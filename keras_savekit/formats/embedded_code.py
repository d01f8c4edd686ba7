"""Find the parts of a model's configuration that are code, or that make Keras run other code.

The search happens before Keras reads a configuration: older versions run the lambdas of
`.h5` files even in safe mode, and import any module that a file names. This module does not
import Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

# Modules whose objects Keras may import under any name.
_TRUSTED = {"keras", "keras_hub", "keras_cv", "keras_nlp", "builtins"}
_CODE = {
    "__lambda__": "a lambda",
    "TFSMLayer": "a SavedModel, from elsewhere on the disk",
    "TorchModuleWrapper": "a pickled PyTorch module",
}
_SHOWN = 60


def code_in(config: Any, within: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the kind of all code in a configuration.

    The place is the innermost layer that has a name, else `within`.
    """
    for place, found in _objects(config, within):
        what = _CODE.get(found["class_name"])
        inner = found.get("config")
        if what is None and isinstance(inner, dict) and inner.get("function_type") == "lambda":
            what = "a lambda"  # as Keras 2 wrote it
        if what is not None:
            yield place, what


def names_in(config: Any, known: Callable[[str], bool]) -> Iterator[str]:
    """Yield the classes and functions that Keras would import from modules that are not its own.

    known: returns whether the user registered this name or passed it as a custom object.
    """
    for _, found in _objects(config, ""):
        module, name = found.get("module"), found["class_name"]
        if not isinstance(module, str) or module.partition(".")[0] in _TRUSTED:
            continue
        inner = found.get("config")
        if name == "function" and isinstance(inner, str):
            name = registered = inner
        else:
            registered = found.get("registered_name", name)
        if not (isinstance(registered, str) and known(registered)):
            yield f"{module}.{name}"[:_SHOWN]


def _objects(config: Any, within: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each part of a configuration that becomes an object, in order, with its layer."""
    # Without recursion: a file may be nested deeper than Python's stack allows.
    pending = [(config, within)]
    while pending:
        value, within = pending.pop()
        inside: list[Any] = []
        if isinstance(value, list):
            inside = value
        elif isinstance(value, dict):
            inner = value.get("config")
            name = inner.get("name") if isinstance(inner, dict) else None
            if isinstance(name, str):
                within = f"layer {name[:_SHOWN]}"
            if isinstance(value.get("class_name"), str):
                yield within, value
            # `code_of_compile` searches this part.
            inside = [inner for key, inner in value.items() if key != "compile_config"]
        pending += [(inner, within) for inner in reversed(inside)]


def code_of_compile(config: Any) -> Iterator[tuple[str, str]]:
    """Yield the place and the kind of all code in what `compile` was given."""
    if isinstance(config, dict):
        for part, value in config.items():
            yield from code_in(value, f"the {part[:_SHOWN]} of compile")
