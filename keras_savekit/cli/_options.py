"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)

directory_argument = click.argument("directory", type=PATH)
policy_argument = click.argument("policy", type=PATH)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
key_env_option = click.option(
    "--key-env",
    metavar="NAME",
    help="Environment variable with the key. Checkpoints that are not signed with this key are"
    " refused, even if the run does not require a signature.",
)
