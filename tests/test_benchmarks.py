"""The benchmarks work, and the README says what they find."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_readme_says_what_comes_back_after_an_interruption():
    resumes = benchmark("resumes")
    rows = [
        [cell.strip() for cell in line.split("|")]
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("| ") and line.count("|") == 7
    ]
    (header,) = (row for row in rows if "`BackupAndRestore`" in row)
    found = {
        name: resumes.facts(run)
        for name, run in (("`BackupAndRestore`", resumes.backup), ("`SaveKit`", resumes.savekit))
    }
    told = {row[1].split(" and ")[0].split(",")[0]: row for row in rows[rows.index(header) + 1 :]}
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


def test_reading_resumable_arrays_is_timed_beside_stock_fit():
    stock, ours = benchmark("data").seconds(64, (4,), 8, 2)
    assert stock > 0
    assert ours > 0


def test_a_model_of_many_weights_comes_back(tmp_path):
    assert benchmark("sweep").check_many(120, tmp_path) == []
