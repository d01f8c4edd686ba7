"""Registers our layer with Keras when both are imported, in either order.

`keras.models.load_model` finds classes only if they are registered. Importing this package
must not import Keras, so an import hook registers the layer right after Keras is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_LAYER_MODULE = "keras_savekit.convert.layer"


def register() -> None:
    """Register the layer now if Keras is imported, otherwise when it is imported."""
    if "keras" in sys.modules:
        importlib.import_module(_LAYER_MODULE)
    else:
        sys.meta_path.insert(0, _KerasImportHook())


class _KerasImportHook:
    """An import finder that adds a step to the first import of Keras, then removes itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            importlib.import_module(_LAYER_MODULE)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
