"""`savekit schema`: the JSON Schema of a policy."""

from __future__ import annotations

import json

import click


@click.command
def command() -> int:
    """Print the JSON Schema of a policy, for editors and other programs."""
    from keras_savekit.policy.yaml.schema import policy_schema

    click.echo(json.dumps(policy_schema(), indent=2))
    return 0
