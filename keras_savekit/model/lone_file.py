"""Restore the optimizer from a `model.h5` of a checkpoint that is not in its directory any more.

The manifest is missing, so nothing is compared with digests. Stock Keras reads the weights
of such a file; the optimizer's variables are in a group of our own name, by position.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from keras_savekit.base.defects import DefectError
from keras_savekit.base.tensors import Array
from keras_savekit.errors import MismatchError
from keras_savekit.formats.dtypes import narrow, parse_dtype
from keras_savekit.formats.full_h5 import COMPILE_ATTRIBUTE, OPTIMIZER_GROUP
from keras_savekit.formats.hdf5 import access
from keras_savekit.formats.hdf5.datasets import own_dataset
from keras_savekit.formats.hdf5.template import read_list
from keras_savekit.model.live_variables import build_optimizer
from keras_savekit.store.read_errors import unreadable


def has_optimizer(path: Path) -> bool:
    """Return whether a `.h5` file contains an optimizer that only this package reads."""
    try:
        with access.open_for_reading(path) as file:
            return OPTIMIZER_GROUP in file and COMPILE_ATTRIBUTE in file.attrs
    except (OSError, ValueError, RuntimeError) as error:
        raise unreadable("cannot be read", str(path), error) from error


def compile_as_saved(model: Any, path: Path) -> None:
    """Compile a model, whose weights are loaded, and restore its optimizer from the file.

    Raises MismatchError if the optimizer that the compile settings make has other
    variables than the file.
    """
    try:
        with access.open_for_reading(path) as file:
            settings = json.loads(file.attrs[COMPILE_ATTRIBUTE])
            values = [
                np.asarray(own_dataset(file, f"{OPTIMIZER_GROUP}/{name}"))
                for name in read_list(file[OPTIMIZER_GROUP], "weight_names")
            ]
    except (DefectError, OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise unreadable("its optimizer cannot be read", str(path), error) from error
    model.compile_from_config(settings)
    build_optimizer(model)
    variables = model.optimizer.variables
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [value.shape for value in values]:
        what = f"the optimizer has {len(values)} variables in the file, {len(shapes)} when rebuilt"
        raise MismatchError(what, str(path), "load it with compile=False")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(_narrowed(value, variable.dtype))


def _narrowed(value: Array, dtype: str) -> Array:
    return narrow(value, parse_dtype(dtype))
