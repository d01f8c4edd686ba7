"""`savekit from-keras`: the policy that replaces a stock callback."""

from __future__ import annotations

import click


@click.command
@click.argument("callback")
def command(callback: str) -> int:
    """Print the policy that does what a stock CALLBACK does.

    CALLBACK is Python source: "ModelCheckpoint('best.h5', save_best_only=True)".
    It is parsed, never run.
    """
    from keras_savekit.policy.from_keras import from_keras

    click.echo(from_keras(callback).to_yaml(), nl=False)
    return 0
