"""The formats of model files that there are."""

from __future__ import annotations

from pathlib import Path

from keras_savekit.errors import ModelError
from keras_savekit.formats.full_h5 import FullH5
from keras_savekit.formats.keras_zip import KerasZip
from keras_savekit.formats.model_format import ModelFormat
from keras_savekit.formats.weights_h5 import WeightsH5

FORMATS: dict[str, ModelFormat] = {each.name: each for each in (FullH5(), KerasZip(), WeightsH5())}
_BY_SUFFIX = sorted(FORMATS.values(), key=lambda known: len(known.suffix), reverse=True)


def find_format(name: str) -> ModelFormat | None:
    """The format of a file of this name; None if it is the name of no model's file.

    `model.weights.h5` is a weights file, though its name ends in `.h5` too.
    """
    return next((known for known in _BY_SUFFIX if name.endswith(known.suffix)), None)


def format_of(path: Path) -> ModelFormat:
    """The format that a file's name requests. Raises ModelError for a name of no model."""
    found = find_format(path.name)
    if found is None:
        *others, last = (known.suffix for known in FORMATS.values())
        remedy = f"give it a name ending in {', '.join(others)} or {last}"
        raise ModelError("is not the name of a model's file", str(path), remedy)
    return found
