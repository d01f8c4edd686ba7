"""`savekit explain`: what a policy does, and what it would do in a training of some length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from keras_savekit.base.text import plural
from keras_savekit.policy.forecast import Fire, Forecast, forecast
from keras_savekit.policy.plan import SavePlan
from keras_savekit.policy.triggers.base import Length
from keras_savekit.policy.yaml.load import load_policy

_SHOWN = 12  # steps that a line names before it leaves some out


def run(
    path: Path, steps_per_epoch: int | None, epochs: int | None, step_seconds: float | None
) -> int:
    """Prints the explanation and returns the exit code."""
    policy = load_policy(path)
    click.echo(policy.describe())
    if steps_per_epoch is None or epochs is None:
        return 0
    length = Length(steps_per_epoch, epochs, step_seconds)
    found = forecast(policy, length)
    click.echo(f"\nin {plural(epochs, 'epoch')} of {plural(steps_per_epoch, 'step')}:")
    for plan in policy.plans:
        click.echo("\n".join(_of_plan(plan, found)))
    return 0


def _of_plan(plan: SavePlan, found: Forecast) -> list[str]:
    fires = [each for each in found.fires if each.plan == plan.name]
    lines = [f"{plan.name}: {plural(len(fires), 'save')} can be foreseen"]
    for reason, of_reason in _by_reason(fires).items():
        steps = _steps([each.moment.step for each in of_reason])
        lines.append(f"  {reason}: {plural(len(of_reason), 'save')}, {steps}")
    if fires:
        lines.append(f"  kept of these: {_steps(found.kept[plan.name])}")
    lines += [f"  not foreseen: {each}" for each in found.unknown[plan.name]]
    return lines


def _by_reason(fires: Sequence[Fire]) -> dict[str, list[Fire]]:
    found: dict[str, list[Fire]] = {}
    for fire in fires:
        for reason in fire.reasons:
            found.setdefault(reason, []).append(fire)
    return found


def _steps(steps: Sequence[int]) -> str:
    words = [str(step) for step in steps]
    if len(words) > _SHOWN:
        words = [*words[: _SHOWN - 2], "...", words[-1]]
    return f"at step{'s' * (len(steps) != 1)} {', '.join(words)}"
