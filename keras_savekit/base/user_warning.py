"""Warn at the line of the user's code, not at ours.

A hook is called by Keras and warns from far below the call of `fit`. Python shows
the line that `stacklevel` names, and so does a filter by module.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from keras_savekit.errors import SavekitWarning

# Between the user's code and ours: Keras, and what wraps its functions and ours.
_NOT_THE_USERS = {"keras_savekit", "keras", "tensorflow", "contextlib", "functools"}


def warn(message: str) -> None:
    """Issue a SavekitWarning that points at the nearest line of the user's code."""
    warnings.warn(message, SavekitWarning, stacklevel=_stacklevel())


def _stacklevel() -> int:
    """Return the level, counted from `warn`, of the first frame outside of these packages."""
    frame: FrameType | None = sys._getframe(1)
    level = 0
    while frame is not None:
        level += 1
        if _package(frame) not in _NOT_THE_USERS:
            return level
        frame = frame.f_back
    return 2  # another thread of ours: nothing of the user's is on the stack


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
