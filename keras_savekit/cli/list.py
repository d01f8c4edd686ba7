"""`savekit list`: the checkpoints of a run, and what is wrong among them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from keras_savekit.base.logs import value_text
from keras_savekit.cli.output import echo_json, finding_json, open_run, size_shown
from keras_savekit.errors import shown
from keras_savekit.store.checkpoint import Checkpoint
from keras_savekit.store.run import LINKS, RunDirectory

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
_STATUS = _COLUMNS.index("status")


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
        "foreign": scan.foreign,
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
        "portable": verification.portable if verification else None,
        "not_portable": [finding_json(each) for each in verification.not_portable]
        if verification
        else [],
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
    limited = [
        (each.name, [each.verification.not_portable_shown()])
        for each in scan.checkpoints
        if each.verification and each.verification.not_portable
    ]
    _print_findings("not portable", limited)
    _print_findings("damaged", [(name, [error.what]) for name, error in scan.damaged])
    _print_findings("not checkpoints, left alone", [(name, []) for name in scan.foreign])
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
    rows = [_cells(each, links) for each in checkpoints]
    width = _width_of(rows)
    widths = [max(map(width, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    lines = []
    for row in ([*_COLUMNS], *rows):
        for place, (cell, wide) in enumerate(zip(row, widths, strict=True)):
            padding = " " * (wide - width(cell))
            row[place] = padding + cell if _COLUMNS[place] in _NUMBERS else cell + padding
        lines.append(row)
    for each, row in zip(checkpoints, rows, strict=True):
        row[_STATUS] = click.style(row[_STATUS], fg=_COLORS[each.status])
    click.echo("\n".join("  ".join(line).rstrip() for line in lines))


def _width_of(rows: list[list[str]]) -> Callable[[str], int]:
    """Tells how many columns of a terminal a text takes."""
    if all("".join(row).isascii() for row in rows):
        return len
    from rich.cells import cell_len

    return cell_len


def _cells(checkpoint: Checkpoint, links: dict[Any, str | None]) -> list[str]:
    manifest = checkpoint.manifest
    own = checkpoint.name
    moment = manifest.moment
    return [
        shown(own),
        str(moment.step),
        f"{moment.epoch}.{moment.batch}",
        shown(manifest.plan),
        manifest.save,
        size_shown(manifest.bytes),
        _status(checkpoint),
        " ".join([which for which, name in links.items() if name == own]),
        shown("; ".join(manifest.reasons)),
        shown(" ".join(f"{name}={value_text(value)}" for name, value in moment.logs.items())),
    ]


def _status(checkpoint: Checkpoint) -> str:
    verification = checkpoint.verification
    if verification is None or checkpoint.status != "verified":
        return checkpoint.status
    portability = ", not portable" if verification.not_portable else ""
    return f"verified: {verification.depth}{portability}"
