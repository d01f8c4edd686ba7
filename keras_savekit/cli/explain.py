"""`savekit explain`: what a policy does, and what it would do in a training of a given length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_savekit.base.text import plural
from keras_savekit.cli._options import COUNT, policy_argument

if TYPE_CHECKING:
    from keras_savekit.policy.forecast import Fire, Forecast
    from keras_savekit.policy.plan import SavePlan

_MAX_STEPS = 12  # steps that a line names; the others become "..."


@click.command
@policy_argument
@click.option("--steps-per-epoch", type=COUNT, help="Batches in an epoch.")
@click.option("--epochs", type=COUNT, help="Epochs of the training.")
@click.option(
    "--step-seconds", type=click.FloatRange(min=0, min_open=True), help="Seconds that a step takes."
)
def command(
    policy: Path, steps_per_epoch: int | None, epochs: int | None, step_seconds: float | None
) -> int:
    """Print in English what the policy in the file POLICY does.

    With --steps-per-epoch and --epochs, also print when the predictable triggers
    fire and which checkpoints are kept. --step-seconds includes the triggers that
    depend on time.
    """
    if (steps_per_epoch is None) != (epochs is None):
        raise click.UsageError("--steps-per-epoch and --epochs go together")
    from keras_savekit.policy.yaml.load import load_policy

    loaded = load_policy(policy)
    click.echo(loaded.describe())
    if steps_per_epoch is None or epochs is None:
        return 0
    from keras_savekit.policy.forecast import forecast
    from keras_savekit.policy.triggers.base import Length

    predicted = forecast(loaded, Length(steps_per_epoch, epochs, step_seconds))
    click.echo(f"\nin {plural(epochs, 'epoch')} of {plural(steps_per_epoch, 'step')}:")
    for plan in loaded.plans:
        click.echo("\n".join(_plan_lines(plan, predicted)))
    return 0


def _plan_lines(plan: SavePlan, predicted: Forecast) -> list[str]:
    fires = [fire for fire in predicted.fires if fire.plan == plan.name]
    lines = [f"{plan.name}: {plural(len(fires), 'save')} can be predicted"]
    for reason, of_reason in _by_reason(fires).items():
        steps = _steps_text([fire.moment.step for fire in of_reason])
        lines.append(f"  {reason}: {plural(len(of_reason), 'save')}, {steps}")
    if fires:
        lines.append(f"  kept of these: {_steps_text(predicted.kept[plan.name])}")
    lines += [f"  not predictable: {trigger}" for trigger in predicted.unknown[plan.name]]
    return lines


def _by_reason(fires: Sequence[Fire]) -> dict[str, list[Fire]]:
    groups: dict[str, list[Fire]] = {}
    for fire in fires:
        for reason in fire.reasons:
            groups.setdefault(reason, []).append(fire)
    return groups


def _steps_text(steps: Sequence[int]) -> str:
    words = [str(step) for step in steps]
    if len(words) > _MAX_STEPS:
        words = [*words[: _MAX_STEPS - 2], "...", words[-1]]
    return f"at step{'s' * (len(steps) != 1)} {', '.join(words)}"
