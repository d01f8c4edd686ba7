"""Load a checkpoint into memory: its tensors and its training state.

Each tensor is compared with the digest that was taken when it was in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from keras_savekit.model.assign import Tensors, read_tensors
from keras_savekit.resume.state import TrainingState, read_state
from keras_savekit.store.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint that can be resumed from, read completely and checked."""

    checkpoint: Checkpoint
    tensors: Tensors
    state: TrainingState


def load_checkpoint(checkpoint: Checkpoint) -> LoadedCheckpoint:
    """Read and check a checkpoint's tensors and its training state.

    Raises CheckpointError if anything is damaged, UnverifiableError if the system failed.
    """
    tensors = read_tensors(checkpoint.path, checkpoint.manifest)
    return LoadedCheckpoint(checkpoint, tensors, read_state(checkpoint.path))
