"""`savekit pin` and `savekit unpin`: which checkpoints no policy removes."""

from __future__ import annotations

from pathlib import Path

import click

from keras_savekit.cli.output import open_run
from keras_savekit.store.run import LINKS


def run(directory: Path, name: str, *, pinned: bool) -> int:
    """Pins or unpins, says so, and returns the exit code."""
    run = open_run(directory)
    linked = {which: run.linked(which) for which in LINKS}
    real = linked.get(name) or name  # type: ignore[call-overload]
    run.pin(real, pinned=pinned)
    stays = "is pinned; no policy removes it" if pinned else "is pinned no more"
    click.echo(f"{real} {stays}")
    return 0
