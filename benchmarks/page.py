"""docs/benchmarks.md: the targets, every group of figures, and figures taken on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import figures
from figures import Row

HERE = Path(__file__).resolve().parent


def text(results: dict[str, Any], docs: Path | None) -> str:
    """Return the page; draw its plots into `docs`, or leave them out."""
    found = results["groups"]
    lines = ["# Benchmarks", "", *_machine(results), "", "## Targets", ""]
    lines += _targets(found, small=results["small"])
    for name, measured in found.items():
        group = figures.group(name)
        lines += ["", f"## {group.TITLE}", "", group.ABOUT, ""]
        drawn = docs is not None and hasattr(group, "plot") and _drawn(group, measured, docs, name)
        if drawn:
            lines += [f"![{group.TITLE}](benchmarks-{name}.svg)", ""]
        lines += group.told(measured)
        lines += [f"\nNot measured: {side} ({why})." for side, why in figures.skipped(measured)]
    lines += ["", (HERE / "gpu.md").read_text().strip()]
    return "\n".join(lines) + "\n"


def _machine(results: dict[str, Any]) -> list[str]:
    about = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    small = " **A small run: it shows that the code works, not how fast it is.**"
    small = small if results["small"] else ""
    written = (
        f"Reference, written by `make bench` ({about['date']},"
        f" {about['seconds'] / 60:.0f} minutes).{small} Each figure is a ratio of"
        " medians within one run, with the other side measured in the same run; shared machines"
        " vary from hour to hour. The raw numbers are in [`benchmarks.json`](benchmarks.json), the"
        " experiments behind the implementation in"
        " [`benchmarks/notes.md`](../benchmarks/notes.md)."
    )
    machine = (
        f"{about['cores']} cores ({about['processor']}), {about['memory'] / 1e9:.0f} GB;"
        f" {about['disk']}, which one thread writes with {about['disk writes'] / 1e6:.0f} MB/s past"
        f" the page cache; {about['system']}; {versions}. Load at the start:"
        f" {about['load']:.1f}. The standard model has 403 MB in 56 variables. tf.data's"
        " autotuning is off."
    )
    return [written, "", machine]


def _targets(found: dict[str, Any], *, small: bool) -> list[str]:
    lines = []
    for name, measured in found.items():
        command = f"`python benchmarks/bench.py --only {name}`"
        lines += [
            [
                row.figure,
                row.target,
                row.measured,
                "not judged" if small else _verdict(row),
                command,
            ]
            for row in figures.group(name).rows(measured)
        ]
    return figures.table(["figure", "target", "measured", "", "command"], lines)


def _verdict(row: Row) -> str:
    return "not measured" if row.met is None else "met" if row.met else "**NOT met**"


def _drawn(group: Any, measured: Any, docs: Path, name: str) -> bool:
    try:
        import matplotlib  # noqa: F401 - is it there?
    except ImportError:
        return False
    docs.mkdir(parents=True, exist_ok=True)
    group.plot(measured, docs / f"benchmarks-{name}.svg")
    return True
