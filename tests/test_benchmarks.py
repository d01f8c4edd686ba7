"""The benchmarks work, and the README and the pages say what they find."""

import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUPS = sorted(path.stem for path in (ROOT / "benchmarks" / "figures").glob("[a-z]*.py"))
# What takes minutes, must be the first thing that a process does, or is tried by another group.
LEFT_OUT = {
    "sizes": {"ResNet152", "10 MB", "100 MB", "1.6 GB"},
    "device": {"second logical device"},
    "overhead": {
        "ModelCheckpoint .h5",
        "ModelCheckpoint .keras",
        "ModelCheckpoint .weights.h5",
        "BackupAndRestore",
        "OrbaxCheckpoint",
        "tf.train.Checkpoint, async",
    },
}


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_a_callback_has_started_is_waited_for_and_counted(monkeypatch):
    """As the process that loads is. Linux counts its time in whole ticks, of 0.01 s at most."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    workloads = importlib.import_module("workloads")
    code = "import time\nwhile time.process_time() < 0.8: pass\nprint(flush=True); input()"
    before = workloads.computed()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert workloads.settle() >= 0.7
        assert child.pid in workloads.children()
        assert workloads.computed() - before >= 0.7
        child.communicate(b"\n", timeout=60)


@pytest.mark.slow
def test_the_readme_and_the_page_say_what_is_restored_after_an_interruption():
    resumes = benchmark("resumes")
    rows = table_with("`BackupAndRestore`", ROOT / "docs" / "resume.md", bars=7)
    header = rows[0]
    found = {
        name: resumes.facts(run)
        for name, run in (("`BackupAndRestore`", resumes.backup), ("`SaveKit`", resumes.savekit))
    }
    told = {row[1].split(" and ")[0].split(",")[0]: row for row in rows[1:]}
    same = {
        "generators of Python": "NumPy's generator",
        "the trained model": "the trained model, bit for bit",
    }
    assert len(told) >= 11
    for name, facts in found.items():
        cells = {same.get(key, key): row[header.index(name)] for key, row in told.items()}
        assert {key: cells[key] for key in facts} == {
            key: "yes" if value else "no" for key, value in facts.items()
        }
    readme = table_with("`BackupAndRestore`", ROOT / "README.md", bars=6)
    short = {
        "restores seeds of layers": "seeds of layers",
        "restores the batch in the epoch": "the batch in the epoch",
        "the trained model is equal, bit for bit": "the trained model, bit for bit",
    }
    shown = {row[1]: row for row in readme}
    for name, facts in found.items():
        column = readme[0].index(name)
        for label, key in short.items():
            assert shown[label][column] == ("yes" if facts[key] else "no"), (name, label)
        weights = facts["weights"] and facts["optimizer's slots"]
        assert (shown["restores weights and optimizer"][column] == "yes") == weights


def table_with(word, page, *, bars):
    """The cells of the one table of a page that has a column of this name."""
    lines = page.read_text().splitlines()
    (begin,) = (
        number
        for number, line in enumerate(lines)
        if word in line and line.count("|") == bars and lines[number + 1].startswith("|---")
    )
    cells = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.split("|")])
    return [cells[0], *cells[2:]]


def test_reading_resumable_arrays_is_timed_beside_stock_fit():
    stock, ours = benchmark("data").seconds(64, (4,), 8, 2)
    assert stock > 0
    assert ours > 0


def test_a_model_of_many_weights_comes_back(tmp_path):
    assert benchmark("sweep").check_many(120, tmp_path) == []


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("bench")


@pytest.fixture
def measured(bench, tmp_path):
    """What a group finds in this process, each side once and small."""

    def measure(name):
        group, scale = bench.figures.group(name), importlib.import_module("workloads").Scale(True)
        if hasattr(group, "prepare"):
            group.prepare(tmp_path, scale)
        found = {}
        for number, side in enumerate(group.sides(scale)):
            place = tmp_path if hasattr(group, "prepare") else tmp_path / str(number)
            (place / "run").mkdir(parents=True, exist_ok=True)
            if side not in LEFT_OUT.get(name, ()):
                found[side] = [group.measure(side, place, scale)]
        # So that the page can be made, the numbers of another stand for what is left out.
        other = found.get("SaveKit") or next(iter(found.values()))
        return {side: found.get(side, other) for side in group.sides(scale)}

    return measure


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what peers warn of is theirs
@pytest.mark.parametrize("name", GROUPS)
def test_every_figure_is_measured_and_told(bench, measured, name):
    found = measured(name)
    about = importlib.import_module("machine").described(Path.cwd()) | {"seconds": 1.0}
    results = {"machine": about, "small": True, "groups": {name: found}}
    page = importlib.import_module("page").text(json.loads(json.dumps(results)), None)
    group = bench.figures.group(name)
    assert group.TITLE in page
    for row in group.rows(found):
        assert row.figure in page
        assert f"--only {name}" in page
    told = "\n".join(group.told(found))
    assert all(side in told or "skipped" in each[0] for side, each in found.items())


def test_every_module_of_figures_is_a_group(bench):
    assert sorted(bench.figures.GROUPS) == GROUPS


@pytest.mark.slow
def test_a_measurement_is_a_process_of_its_own_and_the_page_is_written(
    bench, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = {
        side: [bench.in_a_process("idle", side, tmp_path, small=True)]
        for side in bench.figures.group("idle").COUNTS
    }
    machine = importlib.import_module("machine").described(tmp_path) | {"seconds": 1.0}
    results = {"machine": machine, "small": True, "groups": {"idle": found}}
    (tmp_path / "benchmarks.json").write_text(bench.written(results))
    monkeypatch.setattr(sys, "argv", ["bench.py", "--page", "--docs", str(tmp_path)])
    assert bench.main() == 0
    assert "hooks when nothing is due, 100 plans" in (tmp_path / "benchmarks.md").read_text()
    assert json.loads((tmp_path / "benchmarks.json").read_text()) == bench.rounded(results)


def test_turns_follow_each_other_and_whoever_has_one_saves_in_it_alone(bench):
    turns = importlib.import_module("turns").Turns(("a", "b"), rounds=2, saves=2, every=3, before=1)
    assert turns.due_before == [3]
    assert (turns.due("a"), turns.due("b")) == ([6, 9, 18, 21], [12, 15, 24, 27])


@pytest.mark.slow
def test_all_save_in_their_turns_of_a_training(bench, tmp_path):
    scale = importlib.import_module("workloads").Scale(True)
    overhead = bench.figures.group("overhead")
    (tmp_path / "run").mkdir()
    found = overhead.measure(overhead.IN_TURNS, tmp_path, scale)
    for side in overhead.TAKING_TURNS:
        assert len(found[f"seconds {side}"]) == len(found[f"computed {side}"]) == 1
    for side in (overhead.BUFFERED, overhead.DIRECT):
        assert len(found[f"durable {side}"]) == overhead.SAVES
    # Steps this short come faster than saves: one that waits may be replaced.
    assert 0 < len(found[f"durable {overhead.USUAL}"]) <= 2 + overhead.SAVES
    assert overhead.longer({overhead.IN_TURNS: [found]}, overhead.NOTHING) == 0


@pytest.mark.parametrize("memory", ["kept", "low"])
def test_a_save_does_no_more_than_its_budget(bench, tmp_path, memory):
    budget = importlib.import_module("budget")
    work = budget.work(tmp_path / "run", memory)
    allowed = budget.recorded()[memory]
    assert work["bytes written"] > work["bytes of the state"]
    assert budget.over(work, allowed) == []


def test_a_save_that_does_more_than_its_budget_is_told(bench):
    over = importlib.import_module("budget").over
    assert over({"calls of fsync": 3}, {"calls of fsync": 2}) == [
        "calls of fsync: 3, at most 2 before"
    ]
    assert over({"calls of link": 1}, {}) == ["calls of link: 1, at most 0 before"]
    assert over({"bytes written": 1009}, {"bytes written": 1000}) == []
    assert over({"bytes written": 1011}, {"bytes written": 1000}) != []


def test_the_readme_shows_what_was_measured(bench):
    groups = json.loads((ROOT / "docs" / "benchmarks.json").read_text())["groups"]
    stalls, longer = groups["stalls"], bench.figures.group("overhead").longer
    sides = ("SaveKit", "ModelCheckpoint .h5", "BackupAndRestore", "OrbaxCheckpoint")
    all_of = {
        side: [1000 * each for run in stalls[side] for each in run["stalls"]] for side in sides
    }
    shares = [longer(groups["overhead"], side) for side in sides]
    rows = {
        "stall of a save, median": [ms(statistics.median(all_of[side])) for side in sides],
        "stall of a save, maximum": [ms(max(all_of[side])) for side in sides],
        "overhead of a save every 12 steps": [f"{100 * share:.0f} %" for share in shares],
    }
    readme = (ROOT / "README.md").read_text()
    for name, cells in rows.items():
        assert f"| {name} | {' | '.join(cells)} |" in readme


def ms(milliseconds):
    return f"{milliseconds:,.2f} ms" if milliseconds < 10 else f"{milliseconds:,.0f} ms"


def test_the_page_is_what_the_recorded_numbers_give(bench, monkeypatch):
    page = importlib.import_module("page")
    docs = ROOT / "docs"
    monkeypatch.setattr(
        page, "_drawn", lambda *given: (docs / f"benchmarks-{given[3]}.svg").exists()
    )
    results = json.loads((docs / "benchmarks.json").read_text())
    assert page.text(results, docs) == (docs / "benchmarks.md").read_text()
