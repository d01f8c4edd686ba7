"""Which graphs this process may run although Keras loads in safe mode.

A graph that was made here is the user's own code, and its digest names it. A
file from elsewhere cannot bear the digest of another graph.
"""

from __future__ import annotations

_digests: set[str] = set()


def trust(digest: str) -> None:
    """Run the graph of this digest from now on."""
    _digests.add(digest)


def trusted() -> tuple[str, ...]:
    """The digests of all graphs that may run."""
    return tuple(sorted(_digests))


def is_trusted(digest: str) -> bool:
    """Whether the graph of this digest may run."""
    return digest in _digests
