"""Which parts of a model's configuration are code, or have other code than Keras's run.

Looked for before Keras sees a configuration: older versions run lambdas of `.h5` files
whatever they are told, and import any module that a file names. Knows no Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

# What Keras itself imports, whatever the name.
_TRUSTED = {"keras", "keras_hub", "keras_cv", "keras_nlp", "builtins"}
_RUNNING = {
    "__lambda__": "a lambda",
    "TFSMLayer": "a SavedModel, from elsewhere on the disk",
    "TorchModuleWrapper": "a pickled PyTorch module",
}
_SHOWN = 60


def code_in(config: Any, within: str) -> Iterator[tuple[str, str]]:
    """Code that a configuration holds: the innermost named layer, else `within`, and what it is."""
    for place, found in _objects(config, within):
        what = _RUNNING.get(found["class_name"])
        inner = found.get("config")
        if what is None and isinstance(inner, dict) and inner.get("function_type") == "lambda":
            what = "a lambda"  # as Keras 2 wrote it
        if what is not None:
            yield place, what


def names_in(config: Any, known: Callable[[str], bool]) -> Iterator[str]:
    """Classes and functions of modules that are not Keras's, by which a file has those imported.

    known: whether the user registered this name, or gave it.
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
    """Everything in a configuration that becomes an object, in order, with the layer it is in."""
    pending = [(config, within)]  # and no recursion: a file may nest deeper than Python's stack
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
            # What `compile` was given is looked through by itself.
            inside = [each for key, each in value.items() if key != "compile_config"]
        pending += [(each, within) for each in reversed(inside)]


def code_of_compile(config: Any) -> Iterator[tuple[str, str]]:
    """The same for what `compile` was given."""
    if isinstance(config, dict):
        for part, value in config.items():
            yield from code_in(value, f"the {part[:_SHOWN]} of compile")
