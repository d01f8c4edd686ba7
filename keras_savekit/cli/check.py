"""`savekit check`: what a policy does, or every mistake in it."""

from __future__ import annotations

from pathlib import Path

import click

from keras_savekit.cli._options import policy_argument


@click.command
@policy_argument
def command(policy: Path) -> int:
    """Check the policy in the file POLICY and print what it does.

    If the policy cannot be used, print every problem with its line. The exit status
    is then 2.
    """
    from keras_savekit.policy.yaml.load import load_policy

    click.echo(load_policy(policy).describe())
    return 0
