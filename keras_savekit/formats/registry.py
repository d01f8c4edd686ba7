"""The known formats of model files."""

from __future__ import annotations

from pathlib import Path

from keras_savekit.errors import ModelError
from keras_savekit.formats.full_h5 import FullH5
from keras_savekit.formats.keras_zip import KerasZip
from keras_savekit.formats.model_format import ModelFormat
from keras_savekit.formats.weights_h5 import WeightsH5

FORMATS: dict[str, ModelFormat] = {
    known.name: known for known in (FullH5(), KerasZip(), WeightsH5())
}


def find_format(name: str) -> ModelFormat | None:
    """Return the format of a file with this name, None if no format has such names.

    The longest suffix decides: `model.weights.h5` is a weights file.
    """
    matching = [known for known in FORMATS.values() if name.endswith(known.suffix)]
    return max(matching, key=lambda known: len(known.suffix), default=None)


def format_of(path: Path) -> ModelFormat:
    """Return the format of a file with this name. Raise ModelError if no format has such names."""
    found = find_format(path.name)
    if found is None:
        *others, last = (known.suffix for known in FORMATS.values())
        remedy = f"give it a name ending in {', '.join(others)} or {last}"
        raise ModelError("is not the name of a model's file", str(path), remedy)
    return found


def is_architecture_file(name: str) -> bool:
    """Whether some format keeps the architecture of a checkpoint in a file with this name."""
    return any(name == known.architecture_file for known in FORMATS.values())
