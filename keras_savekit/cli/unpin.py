"""`savekit unpin`: remove the pin of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from keras_savekit.cli._options import directory_argument
from keras_savekit.cli._runs import checkpoint_name, open_run


@click.command
@directory_argument
@click.argument("name")
def command(directory: Path, name: str) -> int:
    """Remove the pin of the checkpoint NAME: the policy's rules apply to it again."""
    run = open_run(directory)
    unpinned = checkpoint_name(run, name)
    run.pin(unpinned, pinned=False)
    click.echo(f"{unpinned} is no longer pinned")
    return 0
