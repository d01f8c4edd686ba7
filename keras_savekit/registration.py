"""Our layer is known to Keras as soon as both are imported, in whichever order.

`keras.models.load_model` finds classes by registration only, and importing this
package must not start Keras: so the import of Keras is waited for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_HOME = "keras_savekit.convert.layer"


def register() -> None:
    """Now if Keras is imported, else when it will be."""
    if "keras" in sys.modules:
        importlib.import_module(_HOME)
    else:
        sys.meta_path.insert(0, _Waiting())


class _Waiting:
    """An importer that finds nothing itself; it is gone once Keras was asked for."""

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
            importlib.import_module(_HOME)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
