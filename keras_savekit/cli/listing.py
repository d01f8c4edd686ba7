"""`savekit list`: the checkpoints of a run, and what is wrong among them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from keras_savekit.cli.output import echo_json, finding_json, open_run, size_shown
from keras_savekit.errors import shown
from keras_savekit.store.directory import LINKS, Checkpoint, RunDirectory

_COLORS = {"verified": "green", "unverified": "yellow", "failed": "red"}
_COLUMNS = (
    "name",
    "step",
    "epoch.batch",
    "plan",
    "kind",
    "size",
    "status",
    "links",
    "reasons",
    "metrics",
)
_NUMBERS = ("step", "epoch.batch", "size")
_AS_WIDE_AS_IT_IS = 10_000


def run(directory: Path, *, as_json: bool) -> int:
    """Prints the listing of the run in `directory` and returns the exit code."""
    listed = open_run(directory)
    if as_json:
        echo_json(_as_json(listed))
    else:
        _print(listed)
    return 0


def _as_json(listed: RunDirectory) -> dict[str, Any]:
    scan = listed.scan()
    info = listed.run_info()
    return {
        "directory": str(listed.path),
        "run": info.run if info else None,
        **{which: listed.linked(which) for which in LINKS},
        "checkpoints": [_checkpoint_json(each) for each in scan.checkpoints],
        "damaged": [{"name": name, "what": error.what} for name, error in scan.damaged],
        "quarantine": [
            {
                "name": name,
                "depth": verification.depth if verification else None,
                "when": verification.when if verification else None,
                "findings": [finding_json(each) for each in verification.findings]
                if verification
                else [],
            }
            for name, verification in listed.quarantined()
        ],
    }


def _checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    manifest, verification = checkpoint.manifest, checkpoint.verification
    moment = manifest.moment
    return {
        "name": checkpoint.name,
        "path": str(checkpoint.path),
        "plan": manifest.plan,
        "save": manifest.save,
        "model_file": manifest.model_file,
        "step": moment.step,
        "epoch": moment.epoch,
        "batch": moment.batch,
        "seconds": moment.seconds,
        "logs": dict(moment.logs),
        "reasons": list(manifest.reasons),
        "created": manifest.created,
        "bytes": manifest.bytes,
        "status": checkpoint.status,
        "depth": verification.depth if verification else None,
        "when": verification.when if verification else None,
        "note": verification.note if verification else "",
        "findings": [finding_json(each) for each in verification.findings] if verification else [],
    }


def _print(listed: RunDirectory) -> None:
    scan = listed.scan()
    links = {which: listed.linked(which) for which in LINKS}
    if scan.checkpoints:
        _print_table(scan.checkpoints, links)
    else:
        click.echo("no checkpoints")
    failed = [
        (each.name, [str(finding) for finding in each.verification.findings])
        for each in scan.checkpoints
        if each.verification
    ]
    _print_findings("failed", [each for each in failed if each[1]])
    _print_findings("damaged", [(name, [error.what]) for name, error in scan.damaged])
    aside = [
        (name, [str(each) for each in verification.findings] if verification else [])
        for name, verification in listed.quarantined()
    ]
    _print_findings("quarantine", aside)


def _print_findings(title: str, entries: list[tuple[str, list[str]]]) -> None:
    if not entries:
        return
    click.echo(f"\n{title}:")
    for name, findings in entries:
        click.echo(f"  {shown(name)}")
        for each in findings:
            click.echo(f"    {shown(each)}")


def _print_table(checkpoints: list[Checkpoint], links: dict[Any, str | None]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in _COLUMNS:
        justify = "right" if column in _NUMBERS else "left"
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for each in checkpoints:
        led_to = " ".join(which for which, name in links.items() if name == each.name)
        status = Text(_status(each), style=_COLORS[each.status])
        cells = _cells(each)
        cells[6:6] = [status, Text(led_to)]
        table.add_row(*cells)
    width = None if sys.stdout.isatty() else _AS_WIDE_AS_IT_IS
    console = Console(width=width)
    with console.capture() as text:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in text.get().splitlines()))


def _cells(checkpoint: Checkpoint) -> list[Any]:
    from rich.text import Text

    manifest = checkpoint.manifest
    moment = manifest.moment
    return [
        Text(shown(each))
        for each in (
            checkpoint.name,
            moment.step,
            f"{moment.epoch}.{moment.batch}",
            manifest.plan,
            manifest.save,
            size_shown(manifest.bytes),
            "; ".join(manifest.reasons),
            " ".join(f"{name}={value:.4g}" for name, value in moment.logs.items()),
        )
    ]


def _status(checkpoint: Checkpoint) -> str:
    verification = checkpoint.verification
    if verification is None or not verification.good:
        return checkpoint.status
    return f"verified: {verification.depth}"
