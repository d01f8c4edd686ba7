"""Measures this package, its peers and the floors beside it, in one run on one machine.

    python benchmarks/bench.py                     # all of it, half an hour and more
    python benchmarks/bench.py --only stalls       # one group: stalls sizes overhead ...
    python benchmarks/bench.py --small             # whether it works, not how fast it is

Each measurement is a process of its own, and what is compared is measured in turns.
A whole run writes docs/benchmarks.json, docs/benchmarks.md and its plots; of a group
alone or a small run the page is printed, unless `--docs` says where to write it.
`--page` writes the page again from the numbers of the last run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before anything imports TensorFlow: quiet, on this machine's cores, with Keras on it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import figures

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 900.0  # seconds a measurement may take


def main() -> int:
    """Measure, or in a process that was started to: measure one side."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--only", action="append", choices=figures.GROUPS, default=[])
    arguments.add_argument("--small", action="store_true")
    arguments.add_argument("--docs", type=Path, help="where to write the page")
    arguments.add_argument("--place", type=Path, default=ROOT / "runs", help="on which disk")
    arguments.add_argument("--page", action="store_true")
    arguments.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.measure:
        return one(*given.measure, small=given.small)
    whole = not given.only and not given.small
    docs = given.docs or (ROOT / "docs" if whole or given.page else None)
    if given.page:
        results = json.loads((docs / "benchmarks.json").read_text())
    else:
        names, place = given.only or list(figures.GROUPS), given.place.resolve()
        results = rounded(everything(names, place, small=given.small))
    import page

    text = page.text(results, docs)
    if docs is None:
        print(text)
        return 0
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "benchmarks.json").write_text(written(results))
    (docs / "benchmarks.md").write_text(text)
    print(f"written: {docs / 'benchmarks.md'}, {docs / 'benchmarks.json'}")
    return 0


def everything(names: list[str], place: Path, *, small: bool) -> dict[str, Any]:
    """All measurements of these groups, and the machine they were taken on."""
    import machine

    place.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as here:
        about = machine.described(Path(here))
        groups = {name: measured(name, Path(here) / name, small=small) for name in names}
    about["seconds"] = time.monotonic() - began
    return {"machine": about, "small": small, "groups": groups}


def measured(name: str, place: Path, *, small: bool) -> dict[str, Any]:
    """Side -> its measurements, of one group."""
    from workloads import Scale

    place.mkdir()
    group, scale = figures.group(name), Scale(small=small)
    if hasattr(group, "prepare"):
        in_a_process(name, "", place, small=small)
    found: dict[str, Any] = {}
    for side in turns(group, scale):
        answer = in_a_process(name, side, place, small=small)
        found.setdefault(side, []).append(answer)
        shutil.rmtree(place / "run", ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    return found


def turns(group: Any, scale: Any) -> Iterator[str]:
    """The sides in the order of their measurements: each once, then each again."""
    repeats = getattr(group, "REPEATS", 1)
    sides = group.sides(scale)
    often = {side: repeats(side) if callable(repeats) else repeats for side in sides}
    for turn in range(1 if scale.small else max(often.values())):
        yield from (side for side in sides if turn < often[side])


def in_a_process(name: str, side: str, place: Path, *, small: bool) -> dict[str, Any]:
    """What a process of its own finds of one side."""
    (place / "run").mkdir(exist_ok=True)
    answer = place / "answer.json"
    command = [sys.executable, __file__, "--measure", name, side, str(place), str(answer)]
    began = time.monotonic()
    print(f"{name}: {side or 'preparing'}", end="", flush=True, file=sys.stderr)
    ended = subprocess.run(
        [*command, *["--small"] * small],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    print(f", {time.monotonic() - began:.0f} s", file=sys.stderr)
    if ended.returncode:
        sys.exit(
            f"{name}: {side} could not be measured\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}"
        )
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def one(name: str, side: str, place: str, answer: str, *, small: bool) -> int:
    """Measure one side in this process, or prepare the group, and write down what was found."""
    from workloads import Scale

    group, scale = figures.group(name), Scale(small=small)
    found = group.measure(side, Path(place), scale) if side else {}
    if not side:
        group.prepare(Path(place), scale)
    Path(answer).write_text(json.dumps(found))
    return 0


def written(results: dict[str, Any]) -> str:
    """Results as JSON that can be read: a list of numbers is one line."""
    text = json.dumps(rounded(results), indent=1)
    lists = re.compile(r"\[[^][{}]*\]")
    return lists.sub(lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def rounded(value: Any) -> Any:
    """Numbers as exact as they mean something, so that the file can be read."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
