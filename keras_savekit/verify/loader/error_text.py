"""What foreign code says when it fails, on one line; and whether it is for a lack of memory."""

from __future__ import annotations

# How libraries say that the system gave them none.
_NO_MEMORY = ("out of memory", "allocate memory", "memory allocation", "bad_alloc", "oom when")


def error_text_of(error: Exception) -> str:
    """Kind and first line. Raises MemoryError if memory is what was lacking."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, MemoryError) or any(each in str(error).lower() for each in _NO_MEMORY):
        raise MemoryError(first or "none is left") from error
    return f"{type(error).__name__}: {first}"
