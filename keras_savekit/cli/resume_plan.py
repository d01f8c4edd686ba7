"""`savekit resume-plan`: the checkpoint that a training started now resumes from.

It changes nothing on disk.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_savekit.cli._options import directory_argument, json_option, key_env_option
from keras_savekit.cli._output import echo_json
from keras_savekit.cli._runs import open_run, signing_key
from keras_savekit.errors import printable_text

if TYPE_CHECKING:
    from keras_savekit.resume.select import Candidate
    from keras_savekit.store.checkpoint import Checkpoint


@click.command
@directory_argument
@key_env_option
@json_option
def command(directory: Path, key_env: str | None, as_json: bool) -> int:
    """Print the checkpoint in DIRECTORY that a training would resume from, and why.

    Every tensor of the checkpoint is read. The exit status is 1 if there is none.
    """
    chosen, skipped = _choose(directory, key_env)
    if as_json:
        echo_json(
            {
                "directory": str(directory),
                "resume_from": _checkpoint_json(chosen) if chosen else None,
                "passed_over": [
                    {"name": candidate.name, "why": candidate.why_not()} for candidate in skipped
                ],
            }
        )
    else:
        _print(chosen, skipped)
    return 0 if chosen else 1


def _choose(directory: Path, key_env: str | None) -> tuple[Checkpoint | None, list[Candidate]]:
    """Return the checkpoint to resume from, and the newer ones that are skipped."""
    from keras_savekit.resume.select import select

    run = open_run(directory)
    run.key = signing_key(run, key_env)
    selection = select([run], time.time(), read=lambda checkpoint: checkpoint)
    return selection.content, list(selection.skipped)


def _print(chosen: Checkpoint | None, skipped: list[Candidate]) -> None:
    for candidate in skipped:
        reason = printable_text(candidate.why_not())
        click.echo(f"skipped {printable_text(candidate.name)}: {reason}")
    if chosen is None:
        click.echo(_why_none(skipped))
        return
    moment = chosen.manifest.moment
    click.echo(
        f"would resume from {chosen.name}: epoch {moment.epoch + 1}, {moment.batch} batches done, "
        f"step {moment.step}"
    )
    if moment.batch:
        click.echo("  in the middle of an epoch: needs the same keras_savekit.resumable() data")


def _why_none(skipped: list[Candidate]) -> str:
    from keras_savekit.resume.select import NONE_TRUSTED

    if any(candidate.failure is not None for candidate in skipped):
        return (
            "no checkpoint is known to be good, and some could not be verified:"
            " a training would not start"
        )
    if any(candidate.untrusted for candidate in skipped):
        return f"{NONE_TRUSTED}: a training would not start"
    return "nothing to resume from: a training would start from scratch"


def _checkpoint_json(checkpoint: Checkpoint) -> dict[str, object]:
    moment = checkpoint.manifest.moment
    return {
        "name": checkpoint.name,
        "status": checkpoint.status,
        "epoch": moment.epoch,
        "batch": moment.batch,
        "step": moment.step,
    }
