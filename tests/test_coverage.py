"""Every branch of the policy is run by its own tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_each_branch_of_the_policy_is_tested(tmp_path):
    pytest.importorskip("coverage")
    tests = sorted(str(path) for path in (ROOT / "tests").glob("test_policy_*.py"))
    environment = {**os.environ, "COVERAGE_FILE": str(tmp_path / "coverage")}

    def coverage(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "coverage", *arguments],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False,
        )  # fmt: skip

    ran = coverage("run", "--branch", "--include=keras_savekit/policy/*", "-m", "pytest",
                   "-p",
        "no:cacheprovider",
        "-k",
        "not microseconds",
        *tests)  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-4000:]
    report = coverage("report", "--show-missing", "--skip-covered", "--fail-under=100")
    assert report.returncode == 0, report.stdout
