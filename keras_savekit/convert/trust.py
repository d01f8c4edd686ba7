"""The graphs that this process may run although Keras loads in safe mode.

A graph that this process made is the user's own code. Its SHA-256 identifies it: a
graph from another file cannot have the same digest.
"""

from __future__ import annotations

_digests: set[str] = set()


def trust(digest: str) -> None:
    """Allow the graph with this digest from now on."""
    _digests.add(digest)


def trusted_digests() -> tuple[str, ...]:
    """Return the digests of all graphs that may run."""
    return tuple(sorted(_digests))


def is_trusted(digest: str) -> bool:
    """Whether the graph with this digest may run."""
    return digest in _digests
