"""Run rungs and record the scoreboard: docs/scoreboard.json and docs/scoreboard.md."""

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
INTRODUCTION = """\
# Faults survived

Reference, written by `make torture`. Each row is a promise of durability, the number of attempts
to break it, and the number of attempts that it survived.

- `make torture` runs the whole ladder, which takes hours. `make torture RUNG=kills` runs one rung.
- `make test` runs a small sample of every rung.
- [`scoreboard.json`](scoreboard.json) lists every failure and the seconds that each rung took.
- The rungs are the modules of [`tests/torture`](../tests/torture).

| rung | what it does |
|---|---|
| faults | makes each disk call of a save fail, or be the last call of the process |
| crashes | rebuilds the states of the disk that a power loss may leave, and resumes from each |
| kills | kills trainings with SIGKILL, at random moments and at each disk call |
| full_disk | fills a tmpfs, and limits the file size with `RLIMIT_FSIZE` |
| corruption | damages files of checkpoints, then verifies and resumes |
| hostile | gives malformed files, links, pipes and names to every reader |
| load | saves 100,000 times, lists 10,000 checkpoints, runs two trainings in one directory |
| time_jumps | moves the clock forwards and backwards during a training |

## Results

"""
HEAD = "| rung | promise | tries | survived | seed |\n|---|---|---|---|---|\n"


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
