"""`savekit verify`: checks a run's checkpoints, or one, and tells what it finds.

What has a name that no checkpoint has is the user's: it is named in a note, is not
damage, and does not change the exit code.

Outcomes are recorded where that disturbs nobody: the lock is held only while
one is written, never during a check, so that a training can start at any time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click

from keras_savekit.base.key import Key
from keras_savekit.cli.output import echo_json, finding_json, key_of, open_run
from keras_savekit.errors import CheckpointError, DirectoryError, UnverifiableError, shown
from keras_savekit.store.checkpoint_lock import hold_shared
from keras_savekit.store.manifest import MANIFEST, Depth, Finding, Verification, supersedes
from keras_savekit.store.naming import CheckpointName
from keras_savekit.store.run import CHECKPOINTS, Checkpoint, RunDirectory, followed
from keras_savekit.verify.depths import unverified

VerificationJob = Callable[[Path, float], Verification]


@dataclass(frozen=True, slots=True)
class _Target:
    """One thing to check.

    error: why it is no checkpoint, if it is none.
    home: the run it belongs to, None for a checkpoint on its own.
    """

    path: Path
    home: RunDirectory | None = None
    checkpoint: Checkpoint | None = None
    error: CheckpointError | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    target: _Target
    verification: Verification
    recorded: bool


def as_depth(text: str) -> Depth:
    """The depth called `text`."""
    return cast("Depth", text)


def run(directory: Path, depth: Depth, *, as_json: bool, key_env: str | None = None) -> int:
    """Verifies what is in `directory`, prints the outcome and returns the exit code.

    key_env: the variable with the key that checkpoints must be signed with, whatever the
        run says of itself.
    """
    targets = _targets(directory)
    outcomes: list[_Outcome] = []
    home = targets[0].home if targets else None
    with _checker(depth, home, key_of(home, key_env)) as check:
        for target in _with_progress(targets, shown_at_all=not as_json):
            verification = _verify(target, check)
            # Removed by its own run since it was listed: nothing to tell.
            if verification.good or target.path.exists() or target.home is None:
                outcomes.append(_Outcome(target, verification, _record(target, verification)))
    foreign = _foreign(directory)
    # What is not portable is whole: the exit status is for damage, `--json` says both.
    good = all(each.verification.good and each.verification.done for each in outcomes)
    if as_json:
        echo_json(
            {
                "directory": str(directory),
                "depth": depth,
                "good": good,
                "checkpoints": [_outcome_json(each) for each in outcomes],
                "foreign": foreign,
            }
        )
    else:
        _print(outcomes, depth)
        for name in foreign:
            click.echo(f"note: {shown(name)} is not a checkpoint and is left alone")
    return 0 if good else 1


def _targets(directory: Path) -> list[_Target]:
    path = followed(directory.absolute()).resolve()
    if not RunDirectory(path).exists and _looks_like_a_checkpoint(path):
        return [_single(path)]
    run = open_run(directory)
    scan = run.scan()
    listed = [_Target(each.path, run, checkpoint=each) for each in scan.checkpoints]
    damaged = [
        _Target(run.checkpoints_path / name, run, error=error) for name, error in scan.damaged
    ]
    return sorted(listed + damaged, key=lambda target: target.path.name)


def _foreign(directory: Path) -> list[str]:
    """What is among the checkpoints of a run and is none of ours."""
    run = RunDirectory(followed(directory.absolute()).resolve())
    return run.foreign() if run.exists else []


def _looks_like_a_checkpoint(path: Path) -> bool:
    named = CheckpointName.parse(path.name) is not None
    return path.is_dir() and (named or (path / MANIFEST).exists())


def _single(path: Path) -> _Target:
    if path.parent.name != CHECKPOINTS:
        return _Target(path)
    home = RunDirectory(path.parent.parent)
    try:
        return _Target(path, home, checkpoint=home.open(path.name))
    except CheckpointError as error:
        return _Target(path, home, error=error)


@contextmanager
def _checker(depth: Depth, home: RunDirectory | None, key: Key | None) -> Iterator[VerificationJob]:
    """The limits of the run, and its probe, are for the process that loads."""
    from keras_savekit.verify.loader.client import LoaderClient
    from keras_savekit.verify.loader.probe import PROBE
    from keras_savekit.verify.loader.process import Budget

    info = home.run_info() if home is not None and depth in ("load", "predict") else None
    budget = Budget.from_policy(info.policy if info is not None else {})
    with LoaderClient(budget, home.path / PROBE if home is not None else None, key) as checker:
        yield lambda path, now: checker.verify(path, now, depth)


def _verify(target: _Target, check: VerificationJob) -> Verification:
    now = time.time()
    error = target.error
    if error is None:
        try:
            with hold_shared(target.path):
                return check(target.path, now)
        except CheckpointError as gone:  # removed since it was listed
            error = gone
    if isinstance(error, UnverifiableError):
        return unverified(error, now)
    where = Path(error.where).name or target.path.name
    return Verification("bytes", now, (Finding("manifest", where, error.what),))


def _record(target: _Target, verification: Verification) -> bool:
    if target.home is None or target.checkpoint is None:
        return False
    if verification.only_untrusted:
        return False  # the key may be the wrong one: a record would make good ones bad for good
    try:
        with target.home.lock:
            if supersedes(verification, target.home.open(target.path.name).verification):
                target.home.record(target.path.name, verification)
    except (DirectoryError, CheckpointError):
        return False  # in use, not ours to write, or gone: the outcome is still told
    return True


def _with_progress(targets: Sequence[_Target], *, shown_at_all: bool) -> Iterator[_Target]:
    if not (shown_at_all and sys.stderr.isatty()):
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
        "findings": [finding_json(each) for each in verification.findings],
        "portable": verification.portable,
        "not_portable": [finding_json(each) for each in verification.not_portable],
        "recorded": outcome.recorded,
    }


def _print(outcomes: list[_Outcome], depth: Depth) -> None:
    for each in outcomes:
        verification = each.verification
        verdict = ("good", "green") if verification.good else ("bad", "red")
        if verification.good and not verification.done:
            verdict = ("open", "yellow")
        word = click.style(f"{verdict[0]:<4}", fg=verdict[1])
        but = click.style(", not portable", fg="yellow") if verification.not_portable else ""
        click.echo(f"{word}  {shown(each.target.path.name)}  {verification.depth}{but}")
        for finding in (*verification.findings, *verification.not_portable):
            click.echo(f"      {shown(finding)}")
        if verification.note:
            click.echo(f"      {shown(verification.note)}")
    bad = sum(not each.verification.good for each in outcomes)
    unknown = sum(each.verification.good and not each.verification.done for each in outcomes)
    unrecorded = sum(
        not (each.recorded or each.verification.only_untrusted)
        and each.target.checkpoint is not None
        for each in outcomes
    )
    not_portable = sum(each.verification.portable is False for each in outcomes)
    left = f", {unknown} could not be verified" if unknown else ""
    left += f", {not_portable} not portable" if not_portable else ""
    click.echo(f"{len(outcomes)} checked at depth {depth}, {bad} bad{left}")
    if unrecorded:
        click.echo(
            f"{unrecorded} not recorded: the directory is in use or cannot be written", err=True
        )
