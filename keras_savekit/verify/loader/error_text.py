"""Describe an error of foreign code on one line, and detect a lack of memory."""

from __future__ import annotations

# What libraries write if they cannot allocate memory.
_NO_MEMORY = ("out of memory", "allocate memory", "memory allocation", "bad_alloc", "oom when")


def error_text_of(error: Exception) -> str:
    """Return the type and the first line. Raise MemoryError if a lack of memory is the cause."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in _NO_MEMORY):
        raise MemoryError(first or "no memory is left") from error
    return f"{type(error).__name__}: {first}"
