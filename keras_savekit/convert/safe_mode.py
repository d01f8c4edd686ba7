"""Whether Keras loads in safe mode. Private Keras API: only here."""

from __future__ import annotations

from keras.src.saving import serialization_lib


def in_safe_mode() -> bool:
    """Whether Keras loads in safe mode: True unless the user turned it off."""
    return serialization_lib.in_safe_mode() is not False
