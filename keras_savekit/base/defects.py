"""What is wrong with a file, on its way from the reader that notices it."""

from __future__ import annotations


class DefectError(Exception):
    """One thing that is wrong with a file or a tensor, before its place is known.

    kind, what: as a `store.manifest.Finding` has them. Whoever catches it knows the place,
    and makes a finding or a CheckpointError of it.
    """

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(kind, what)
        self.kind = kind
        self.what = what
