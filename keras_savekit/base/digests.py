"""Digests of values, as manifests record them."""

from __future__ import annotations

import numpy as np
import xxhash

from keras_savekit.base.tensors import Array

_PIECE = 4 * 2**20  # bytes that are digested at once


def tensor_digest(value: Array) -> str:
    """Return the xxh3_128, in hex, of a tensor's bytes in C order."""
    digest = xxhash.xxh3_128()
    flat = np.ascontiguousarray(value).reshape(-1)
    per_piece = max(1, _PIECE // max(1, flat.itemsize))
    for start in range(0, flat.size, per_piece):
        digest.update(flat[start : start + per_piece].view(np.uint8).data)
    text: str = digest.hexdigest()
    return text
