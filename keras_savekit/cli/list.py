"""`savekit list`: the checkpoints of a run, and the problems among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_savekit.base.logs import value_text
from keras_savekit.cli._options import directory_argument, json_option
from keras_savekit.cli._output import echo_json, findings_json, short_size
from keras_savekit.cli._runs import open_run
from keras_savekit.errors import printable_text

if TYPE_CHECKING:
    from keras_savekit.store.checkpoint import Checkpoint
    from keras_savekit.store.manifest import Verification
    from keras_savekit.store.run import RunDirectory

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

Links = Mapping[str, str | None]


@click.command
@directory_argument
@json_option
def command(directory: Path, as_json: bool) -> int:
    """List the checkpoints of the run in DIRECTORY."""
    run = open_run(directory)
    if as_json:
        echo_json(_run_json(run))
    else:
        _print_run(run)
    return 0


def _links(run: RunDirectory) -> Links:
    from keras_savekit.store.run import LINKS

    return {link: run.linked(link) for link in LINKS}


def _run_json(run: RunDirectory) -> dict[str, Any]:
    scan = run.scan()
    info = run.run_info()
    return {
        "directory": str(run.path),
        "run": info.run if info else None,
        **_links(run),
        "checkpoints": [_checkpoint_json(checkpoint) for checkpoint in scan.checkpoints],
        "damaged": [{"name": name, "what": error.what} for name, error in scan.damaged],
        "foreign": scan.foreign,
        "quarantine": [
            _quarantined_json(name, verification) for name, verification in run.quarantined()
        ],
    }


def _quarantined_json(name: str, verification: Verification | None) -> dict[str, Any]:
    if verification is None:
        return {"name": name, "depth": None, "when": None, "findings": []}
    return {
        "name": name,
        "depth": verification.depth,
        "when": verification.when,
        "findings": findings_json(verification.findings),
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
        "findings": findings_json(verification.findings) if verification else [],
        "portable": verification.portable if verification else None,
        "not_portable": findings_json(verification.not_portable) if verification else [],
    }


def _print_run(run: RunDirectory) -> None:
    scan = run.scan()
    if scan.checkpoints:
        _print_table(scan.checkpoints, _links(run))
    else:
        click.echo("no checkpoints")
    failed, not_portable = {}, {}
    for checkpoint in scan.checkpoints:
        verification = checkpoint.verification
        if verification and verification.findings:
            failed[checkpoint.name] = [str(finding) for finding in verification.findings]
        if verification and verification.not_portable:
            not_portable[checkpoint.name] = [verification.not_portable_shown()]
    quarantined = {
        name: [str(finding) for finding in verification.findings] if verification else []
        for name, verification in run.quarantined()
    }
    _print_findings("failed", failed)
    _print_findings("not portable", not_portable)
    _print_findings("damaged", {name: [error.what] for name, error in scan.damaged})
    _print_findings("not checkpoints, left alone", {name: [] for name in scan.foreign})
    _print_findings("quarantine", quarantined)


def _print_findings(title: str, findings_by_name: Mapping[str, Sequence[str]]) -> None:
    if not findings_by_name:
        return
    click.echo(f"\n{title}:")
    for name, findings in findings_by_name.items():
        click.echo(f"  {printable_text(name)}")
        for finding in findings:
            click.echo(f"    {printable_text(finding)}")


def _print_table(checkpoints: Sequence[Checkpoint], links: Links) -> None:
    rows = [_cells(checkpoint, links) for checkpoint in checkpoints]
    width = _width_function(rows)
    widths = [max(map(width, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    lines = []
    for row in ([*_COLUMNS], *rows):
        for index, (cell, column_width) in enumerate(zip(row, widths, strict=True)):
            padding = " " * (column_width - width(cell))
            row[index] = padding + cell if _COLUMNS[index] in _NUMBERS else cell + padding
        lines.append(row)
    for checkpoint, row in zip(checkpoints, rows, strict=True):
        row[_STATUS] = click.style(row[_STATUS], fg=_COLORS[checkpoint.status])
    click.echo("\n".join("  ".join(line).rstrip() for line in lines))


def _width_function(rows: Sequence[Sequence[str]]) -> Callable[[str], int]:
    """Return the function that counts the terminal columns of a text."""
    if all("".join(row).isascii() for row in rows):
        return len
    from rich.cells import cell_len

    return cell_len


def _cells(checkpoint: Checkpoint, links: Links) -> list[str]:
    manifest = checkpoint.manifest
    moment = manifest.moment
    metrics = " ".join(f"{name}={value_text(value)}" for name, value in moment.logs.items())
    return [
        printable_text(checkpoint.name),
        str(moment.step),
        f"{moment.epoch}.{moment.batch}",
        printable_text(manifest.plan),
        manifest.save,
        short_size(manifest.bytes),
        _status_text(checkpoint),
        " ".join([link for link, name in links.items() if name == checkpoint.name]),
        printable_text("; ".join(manifest.reasons)),
        printable_text(metrics),
    ]


def _status_text(checkpoint: Checkpoint) -> str:
    verification = checkpoint.verification
    if verification is None or checkpoint.status != "verified":
        return checkpoint.status
    portability = ", not portable" if verification.not_portable else ""
    return f"verified: {verification.depth}{portability}"
