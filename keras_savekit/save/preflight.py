"""Check a snapshot before it is written: whether it is worth it, and how large it will be."""

from __future__ import annotations

import math

import numpy as np

from keras_savekit.base.digests import tensor_digest
from keras_savekit.base.logs import numbers
from keras_savekit.base.tensors import Snapshot, as_array
from keras_savekit.policy.plan import Due
from keras_savekit.policy.rules.base import Record
from keras_savekit.store.manifest import Manifest

_BLOCK = 2**20  # elements checked at once: a large tensor needs no copy of its size
_PER_TENSOR = 2048  # bytes that HDF5 and the manifest take for a tensor, about
_OVERHEAD = 2**16  # bytes for everything else


def find_not_finite(snapshot: Snapshot) -> str:
    """Return the loss or the first weight that is NaN or infinite, in words; empty if none is."""
    for loss in numbers(snapshot.moment.logs.get("loss")):
        if not math.isfinite(loss):
            return f"the loss is {loss}"
    for position in snapshot.blueprint.positions("weight"):
        flat = as_array(snapshot.tensors[position]).reshape(-1)
        if not (np.issubdtype(flat.dtype, np.inexact) or flat.dtype.kind == "V"):
            continue  # whole numbers and text are always finite
        for start in range(0, flat.size, _BLOCK):
            if not np.isfinite(flat[start : start + _BLOCK]).all():
                name = snapshot.blueprint.variables[position].name
                return f"{name} contains values that are not finite"
    return ""


def has_same_weights(manifest: Manifest, snapshot: Snapshot) -> bool:
    """Return whether a checkpoint has the weights of a snapshot, bit for bit."""
    saved = [entry.digest for entry in manifest.tensors if entry.role == "weight"]
    weights = (snapshot.tensors[position] for position in snapshot.blueprint.positions("weight"))
    return saved == [tensor_digest(as_array(weight)) for weight in weights]


def predicted_bytes(snapshot: Snapshot) -> int:
    """Return about what an uncompressed checkpoint takes on the disk, rather more than less."""
    tensors = sum(as_array(tensor).nbytes + _PER_TENSOR for tensor in snapshot.tensors)
    return tensors + 2 * len(snapshot.blueprint.model_config) + _OVERHEAD


def record_of(snapshot: Snapshot, due: Due, size: int, now: float) -> Record:
    """Return what retention knows about the checkpoint of a save of about `size` bytes."""
    moment = snapshot.moment
    return Record(
        name=f"step {moment.step} of {due.plan.name}",
        plan=due.plan.name,
        step=moment.step,
        logs=moment.logs,
        verified=False,
        epoch=moment.epoch,
        seconds=moment.seconds,
        created=now,
        bytes=size,
    )
