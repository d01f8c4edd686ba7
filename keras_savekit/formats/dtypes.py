"""Numbers as files hold them: what no file format knows is widened, to the last bit and back.

NumPy's own casts change some kinds of NaN and warn about others; here every
bit pattern of a bfloat16 survives the way through float32.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from keras_savekit.base.tensors import Array


def by_name(name: str) -> np.dtype[Any]:
    """The dtype of this name, those of `ml_dtypes` included. Raises TypeError for others."""
    return np.dtype(getattr(ml_dtypes, name, name))


def widened(value: Array, stored: np.dtype[Any]) -> Array:
    """`value` in the wider dtype it is stored in."""
    if value.dtype == ml_dtypes.bfloat16 and stored == np.float32:
        return (value.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return value.astype(stored)


def narrowed(stored: Array, own: np.dtype[Any]) -> Array:
    """What a variable of dtype `own` held, from what a file stores for it.

    The inverse of `widened`; opaque bytes (`V2`) are taken as they are. Raises
    ValueError where a bfloat16 was widened and the file holds what never was one.
    """
    if stored.dtype == own:
        return stored
    if stored.dtype.kind == "V":
        return stored.view(own)
    if own == ml_dtypes.bfloat16 and stored.dtype == np.float32:
        bits = stored.view(np.uint32)
        if np.any(bits & 0xFFFF):
            raise ValueError(f"has values that are no {own.name}")
        return np.asarray(bits >> 16, np.uint16).view(own)
    with np.errstate(all="ignore"):
        return stored.astype(own)
