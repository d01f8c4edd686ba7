"""`savekit verify`: verify the checkpoints of a run, or one checkpoint, and report the findings.

A name that no checkpoint has belongs to the user. A note names it; it is no damage and does
not change the exit status.

An outcome is recorded only if the run's lock is free. The lock is held while one outcome is
written and never during a verification, so that a training can start at any time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_savekit.cli._options import directory_argument, json_option, key_env_option
from keras_savekit.cli._output import echo_json, findings_json
from keras_savekit.cli._runs import open_run, signing_key
from keras_savekit.errors import (
    CheckpointError,
    DirectoryError,
    UnverifiableError,
    printable_text,
)

if TYPE_CHECKING:
    from keras_savekit.base.key import Key
    from keras_savekit.store.checkpoint import Checkpoint
    from keras_savekit.store.manifest import Depth, Verification
    from keras_savekit.store.run import RunDirectory

    # Verifies the checkpoint at a path, at a time in seconds since 1970.
    Verify = Callable[[Path, float], Verification]


@dataclass(frozen=True, slots=True)
class _Target:
    """One directory to verify.

    run: the run that contains it, None for a checkpoint outside of a run.
    checkpoint: None outside of a run, or if `error` says why it is no checkpoint.
    """

    path: Path
    run: RunDirectory | None = None
    checkpoint: Checkpoint | None = None
    error: CheckpointError | None = None

    @property
    def removed(self) -> bool:
        """Whether its run has removed it since it was listed."""
        return self.run is not None and not self.path.exists()


@dataclass(frozen=True, slots=True)
class _Outcome:
    target: _Target
    verification: Verification
    recorded: bool

    @property
    def status(self) -> str:
        """`good`, `bad` (damaged, or not signed with the key), or `open` (not verifiable)."""
        if not self.verification.good:
            return "bad"
        return "good" if self.verification.done else "open"


@click.command
@directory_argument
@click.option(
    "--depth",
    type=click.Choice(["bytes", "structure", "load", "predict"]),
    default="structure",
    show_default=True,
    help="bytes: files and their digests. structure: also every tensor. load: also loads the"
    " model with stock Keras. predict: also compares its outputs.",
)
@key_env_option
@json_option
def command(directory: Path, depth: Depth, key_env: str | None, as_json: bool) -> int:
    """Verify all checkpoints of the run in DIRECTORY, or the one checkpoint there.

    The outcome is recorded, unless a training uses the directory. "bad": there is
    evidence of damage, or the required key has not signed the checkpoint; the
    latter is no damage and is not recorded. "open": the checkpoint could not be
    verified, because the system failed to read it, or because time or memory were
    not sufficient. The exit status is 1 if any checkpoint is bad or open. "not
    portable": the checkpoint is whole, but stock Keras does not load it as it was
    saved. This does not change the exit status; with --json it is "portable": false.
    """
    targets = _targets(directory)
    run = targets[0].run if targets else None
    outcomes: list[_Outcome] = []
    with _verifier(depth, run, signing_key(run, key_env)) as verify:
        for target in _with_progress(targets, enabled=not as_json):
            verification = _verify(target, verify)
            if verification.good or not target.removed:
                outcomes.append(_Outcome(target, verification, _record(target, verification)))
    foreign = _foreign(directory)
    good = all(outcome.status == "good" for outcome in outcomes)
    if as_json:
        echo_json(
            {
                "directory": str(directory),
                "depth": depth,
                "good": good,
                "checkpoints": [_outcome_json(outcome) for outcome in outcomes],
                "foreign": foreign,
            }
        )
    else:
        _print(outcomes, depth)
        for name in foreign:
            click.echo(f"note: {printable_text(name)} is not a checkpoint and is left alone")
    return 0 if good else 1


def _targets(directory: Path) -> list[_Target]:
    from keras_savekit.store.run import RunDirectory, resolve_link

    path = resolve_link(directory.absolute()).resolve()
    if not RunDirectory(path).exists and _is_checkpoint(path):
        return [_single_target(path)]
    run = open_run(directory)
    scan = run.scan()
    targets = [
        _Target(checkpoint.path, run, checkpoint=checkpoint) for checkpoint in scan.checkpoints
    ]
    targets += [
        _Target(run.checkpoints_path / name, run, error=error) for name, error in scan.damaged
    ]
    return sorted(targets, key=lambda target: target.path.name)


def _is_checkpoint(path: Path) -> bool:
    from keras_savekit.store.manifest import MANIFEST
    from keras_savekit.store.naming import CheckpointName

    named = CheckpointName.parse(path.name) is not None
    return path.is_dir() and (named or (path / MANIFEST).exists())


def _single_target(path: Path) -> _Target:
    from keras_savekit.store.run import CHECKPOINTS, RunDirectory

    if path.parent.name != CHECKPOINTS:
        return _Target(path)
    run = RunDirectory(path.parent.parent)
    try:
        return _Target(path, run, checkpoint=run.open(path.name))
    except CheckpointError as error:
        return _Target(path, run, error=error)


def _foreign(directory: Path) -> list[str]:
    """Return the names among the checkpoints of a run that are not ours."""
    from keras_savekit.store.run import RunDirectory, resolve_link

    run = RunDirectory(resolve_link(directory.absolute()).resolve())
    return run.foreign() if run.exists else []


@contextmanager
def _verifier(depth: Depth, run: RunDirectory | None, key: Key | None) -> Iterator[Verify]:
    """Yield a function that verifies to `depth`, within the limits of the run."""
    from keras_savekit.verify.loader.client import LoaderClient
    from keras_savekit.verify.loader.probe import PROBE
    from keras_savekit.verify.loader.process import Budget

    info = run.run_info() if run is not None and depth in ("load", "predict") else None
    budget = Budget.from_policy(info.policy if info is not None else {})
    with LoaderClient(budget, run.path / PROBE if run is not None else None, key) as checker:
        yield lambda path, now: checker.verify(path, now, depth)


def _verify(target: _Target, verify: Verify) -> Verification:
    from keras_savekit.store.checkpoint_lock import hold_shared
    from keras_savekit.store.manifest import Finding, Verification
    from keras_savekit.verify.depths import unverified

    now = time.time()
    error = target.error
    if error is None:
        try:
            with hold_shared(target.path):
                return verify(target.path, now)
        except CheckpointError as removed:  # since it was listed
            error = removed
    if isinstance(error, UnverifiableError):
        return unverified(error, now)
    where = Path(error.where).name or target.path.name
    return Verification("bytes", now, (Finding("manifest", where, error.what),))


def _record(target: _Target, verification: Verification) -> bool:
    """Record an outcome in its run; return whether that was possible."""
    from keras_savekit.store.manifest import supersedes
    from keras_savekit.store.run_writer import RunWriter

    if target.run is None or target.checkpoint is None:
        return False
    if verification.only_untrusted:
        return False  # the key may be the wrong one, and a record would condemn good checkpoints
    name = target.path.name
    try:
        with RunWriter.acquire(target.run) as writer:
            if supersedes(verification, writer.open(name).verification):
                writer.record(name, verification)
    except (DirectoryError, CheckpointError):
        return False  # in use, not writable, or removed
    return True


def _with_progress(targets: Sequence[_Target], *, enabled: bool) -> Iterator[_Target]:
    if not (enabled and sys.stderr.isatty()):
        yield from targets
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(targets, "verifying", console=console, transient=True)


def _outcome_json(outcome: _Outcome) -> dict[str, Any]:
    verification = outcome.verification
    return {
        "name": outcome.target.path.name,
        "path": str(outcome.target.path),
        "good": verification.good,
        "done": verification.done,
        "depth": verification.depth,
        "when": verification.when,
        "note": verification.note,
        "findings": findings_json(verification.findings),
        "portable": verification.portable,
        "not_portable": findings_json(verification.not_portable),
        "recorded": outcome.recorded,
    }


def _print(outcomes: Sequence[_Outcome], depth: Depth) -> None:
    for outcome in outcomes:
        _print_outcome(outcome)
    statuses = [outcome.status for outcome in outcomes]
    summary = f"{len(outcomes)} checked at depth {depth}, {statuses.count('bad')} bad"
    if "open" in statuses:
        summary += f", {statuses.count('open')} could not be verified"
    not_portable = sum(outcome.verification.portable is False for outcome in outcomes)
    if not_portable:
        summary += f", {not_portable} not portable"
    click.echo(summary)
    unrecorded = sum(
        outcome.target.checkpoint is not None
        and not outcome.recorded
        and not outcome.verification.only_untrusted
        for outcome in outcomes
    )
    if unrecorded:
        click.echo(
            f"{unrecorded} not recorded: the directory is in use or cannot be written", err=True
        )


def _print_outcome(outcome: _Outcome) -> None:
    colors = {"good": "green", "bad": "red", "open": "yellow"}
    verification = outcome.verification
    status = click.style(f"{outcome.status:<4}", fg=colors[outcome.status])
    limit = click.style(", not portable", fg="yellow") if verification.not_portable else ""
    name = printable_text(outcome.target.path.name)
    click.echo(f"{status}  {name}  {verification.depth}{limit}")
    for finding in (*verification.findings, *verification.not_portable):
        click.echo(f"      {printable_text(finding)}")
    if verification.note:
        click.echo(f"      {printable_text(verification.note)}")
