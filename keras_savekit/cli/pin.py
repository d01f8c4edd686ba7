"""`savekit pin`: no policy removes a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from keras_savekit.cli._options import directory_argument
from keras_savekit.cli._runs import checkpoint_name, open_run


@click.command
@directory_argument
@click.argument("name")
def command(directory: Path, name: str) -> int:
    """Pin the checkpoint NAME of the run in DIRECTORY: no policy removes it.

    NAME is a name from `savekit list`, or `latest` or `best`. A running training
    applies the pin from its next save on.
    """
    run = open_run(directory)
    pinned = checkpoint_name(run, name)
    run.pin(pinned, pinned=True)
    click.echo(f"{pinned} is pinned; no policy removes it")
    return 0
