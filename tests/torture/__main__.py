"""Runs rungs and keeps the scoreboard: docs/scoreboard.json, and the pages made of it."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import conftest  # noqa: F401 - quiet, and on the CPU

RUNGS = ("faults", "crashes", "kills", "full_disk", "corruption", "hostile", "load", "time_jumps")
ROOT = Path(__file__).resolve().parent.parent.parent
FIGURES, PAGE = ROOT / "docs" / "scoreboard.json", ROOT / "docs" / "scoreboard.md"
README = ROOT / "README.md"
INTRODUCTION = """\
# Faults survived

Every promise of durability, and how often it was tried to be broken. Made by `make torture`; a
rung alone by `make torture RUNG=kills`. The failures, if there are any, and the seconds each rung
took are in `scoreboard.json`. `make test` has small doses.

"""
HEAD = "| rung | promise | tries | survived | seed |\n|---|---|---|---|---|\n"
BEGIN, END = "<!-- the score, made by `make torture` -->\n", "<!-- its end -->\n"


def run(name: str, seed: int, count: int | None, record: bool) -> bool:
    rung = importlib.import_module(f"torture.{name}")
    count = count or rung.FULL
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="savekit-torture-") as scratch:
        scores = rung.run(seed, count, Path(scratch))
    seconds = time.monotonic() - began
    for score in scores:
        print(f"{name}: {score.promise}: {score.survived} of {score.tries} (seed {seed})")
        for failure in score.failures[:20]:
            print(f"  {failure}", file=sys.stderr)
    if record:
        figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        figures[name] = {
            "seed": seed,
            "count": count,
            "seconds": round(seconds),
            "machine": f"Python {platform.python_version()}, {platform.system()}",
            "failures": [failure for each in scores for failure in each.failures],
            "scores": [[each.promise, each.tries, each.survived] for each in scores],
        }
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        PAGE.write_text(INTRODUCTION + table(figures))
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(before + BEGIN + table(figures) + END + rest.partition(END)[2])
    return not any(score.failures for score in scores)


def table(figures: dict) -> str:
    rows = [
        f"| {name} | {promise} | {tries:,} | {survived:,} | {figures[name]['seed']} |"
        for name in RUNGS
        if name in figures
        for promise, tries, survived in figures[name]["scores"]
    ]
    return HEAD + "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rung", nargs="*", choices=[*RUNGS, []], help="all if none is named")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, help="tries; what the rung has in full, if not said")
    parser.add_argument("--record", action="store_true", help="write it to the scoreboard")
    given = parser.parse_args()
    good = [run(each, given.seed, given.count, given.record) for each in given.rung or RUNGS]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
