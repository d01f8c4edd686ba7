"""Whether Keras loads what it does not trust. Private Keras API: only here."""

from __future__ import annotations

from keras.src.saving import serialization_lib


def in_safe_mode() -> bool:
    """True unless the user has said otherwise, also where nothing says anything."""
    return serialization_lib.in_safe_mode() is not False
