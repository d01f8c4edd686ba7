"""Convert values to dtypes that file formats have, and back, without losing a bit.

NumPy's casts change some NaN values and warn about others. Here each bit pattern of a
bfloat16 is the same after it was widened to float32 and narrowed again.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from keras_savekit.base.tensors import Array


def parse_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype with this name, also those of `ml_dtypes`. Raise TypeError for others."""
    return np.dtype(getattr(ml_dtypes, name, name))


def widen(value: Array, stored: np.dtype[Any]) -> Array:
    """Return `value` in the wider dtype in which it is stored."""
    if value.dtype == ml_dtypes.bfloat16 and stored == np.float32:
        return (value.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return value.astype(stored)


def narrow(stored: Array, own: np.dtype[Any]) -> Array:
    """Return the value of a variable of dtype `own` from its value in a file.

    This is the inverse of `widen`. Opaque bytes (`V2`) are reinterpreted. Raises ValueError
    if `own` is bfloat16 and a stored float32 is not a widened bfloat16.
    """
    if stored.dtype == own:
        return stored
    if stored.dtype.kind == "V":
        return stored.view(own)
    if own == ml_dtypes.bfloat16 and stored.dtype == np.float32:
        bits = stored.view(np.uint32)
        if np.any(bits & 0xFFFF):
            raise ValueError(f"has values that are not {own.name}")
        return np.asarray(bits >> 16, np.uint16).view(own)
    with np.errstate(all="ignore"):
        return stored.astype(own)
