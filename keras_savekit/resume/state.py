"""The training state in a checkpoint: what a resumed training needs beside the tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from keras_savekit.base.defects import DefectError
from keras_savekit.errors import CheckpointError
from keras_savekit.formats import log_values, state_h5
from keras_savekit.formats.state_h5 import STATE_FILE
from keras_savekit.store.read_errors import unreadable
from keras_savekit.store.regular_file import resolve_inside


def _require_logs(epochs: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    for _, saved in epochs:
        log_values.decode_logs(saved)  # raises ValueError: a file may contain anything
    return epochs


class TrainingState(TypedDict):
    """What a resumed training reads of the state. The file may contain more.

    epochs: as requested of the `fit` that saved it. length: batches in an epoch.
    stopped: whether a callback stopped the training. consistent: whether no step was
    under way. ended: whether callbacks had done their work at the end of training.
    data: identity of the data. randomness: of the random generators. memory: of triggers.
    history: logs of each epoch. optimizer: its settings, serialized.
    """

    epochs: int
    length: int | None
    stopped: bool
    consistent: bool
    ended: NotRequired[Any]
    data: dict[str, Any] | None
    randomness: dict[str, Any]
    callbacks: dict[str, Any]
    memory: dict[str, float]
    history: Annotated[list[tuple[int, dict[str, Any]]], AfterValidator(_require_logs)]
    optimizer: dict[str, Any] | None


_STATE = TypeAdapter(TrainingState)


def read_state(directory: Path) -> TrainingState:
    """Read the training state of the checkpoint in `directory`.

    Raises CheckpointError if it is damaged, UnverifiableError if the system failed.
    """
    where = str(directory / STATE_FILE)
    try:
        path = resolve_inside(directory, STATE_FILE)
    except DefectError as error:
        raise CheckpointError(error.what, where) from error
    except OSError as error:
        raise unreadable("cannot be read", where, error) from error
    state = state_h5.read(path)
    try:
        _STATE.validate_python(state)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        what = f"the training state has a wrong {first['loc'][0]}: {first['msg']}"
        raise CheckpointError(what, str(path)) from error
    return cast("TrainingState", state)  # as it was read, without pydantic's conversions


def stopped_for_good(state: TrainingState, epochs: int) -> bool:
    """Whether a callback stopped the training, and no more epochs are requested since."""
    return bool(state["stopped"]) and epochs <= state["epochs"]
