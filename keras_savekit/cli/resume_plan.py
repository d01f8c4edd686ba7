"""`savekit resume-plan`: what a training started now would go on from. Changes nothing."""

from __future__ import annotations

import time
from pathlib import Path

import click

from keras_savekit.cli.output import echo_json, key_of, open_run
from keras_savekit.errors import shown
from keras_savekit.resume.select import NONE_TRUSTED, Candidate, select
from keras_savekit.store.run import Checkpoint


def run(directory: Path, *, as_json: bool, key_env: str | None = None) -> int:
    """Prints the plan; returns 0, or 1 if there is nothing to go on from.

    key_env: the variable with the key that checkpoints must be signed with, whatever the
        run says of itself.
    """
    chosen, passed = _choose(directory, key_env)
    if as_json:
        echo_json(
            {
                "directory": str(directory),
                "resume_from": _chosen_json(chosen) if chosen else None,
                "passed_over": [{"name": each.name, "why": each.why_not()} for each in passed],
            }
        )
        return 0 if chosen else 1
    for each in passed:
        click.echo(f"passed over {shown(each.name)}: {shown(each.why_not())}")
    if chosen is None:
        click.echo(_none(passed))
        return 1
    now = chosen.manifest.moment
    click.echo(
        f"would resume from {chosen.name}: epoch {now.epoch + 1}, {now.batch} batches done, "
        f"step {now.step}"
    )
    if now.batch:
        click.echo("  in the middle of an epoch: needs the same keras_savekit.resumable() data")
    return 0


def _none(passed: list[Candidate]) -> str:
    if any(each.failure is not None for each in passed):
        return "some could not be verified, and no other is good: a training would not start"
    if any(each.untrusted for each in passed):
        return f"{NONE_TRUSTED}: a training would be refused"
    return "nothing to resume from: a training would begin anew"


def _choose(directory: Path, key_env: str | None) -> tuple[Checkpoint | None, list[Candidate]]:
    run = open_run(directory)
    run.key = key_of(run, key_env)
    selection = select([run], time.time(), read=lambda checkpoint: checkpoint)
    return selection.content, list(selection.skipped)


def _chosen_json(chosen: Checkpoint) -> dict[str, object]:
    now = chosen.manifest.moment
    return {
        "name": chosen.name,
        "status": chosen.status,
        "epoch": now.epoch,
        "batch": now.batch,
        "step": now.step,
    }
