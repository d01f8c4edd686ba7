"""What the README shows is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keras_savekit.policy.yaml.load import load_policy

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[:1]
    return found


@pytest.mark.slow
def test_the_example_runs_resumes_and_leaves_what_the_policy_says(tmp_path):
    (tmp_path / "policy.yaml").write_text(
        block("yaml").replace("every 200 steps", "every 20 steps")
    )
    (tmp_path / "train.py").write_text(block("python"))

    def run():
        return subprocess.run(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ).stdout

    run()
    names = [each.name for each in (tmp_path / "runs/mine/checkpoints").iterdir()]
    assert len([name for name in names if name.endswith("latest")]) == 3
    assert len([name for name in names if name.endswith("best")]) == 1
    again = run()
    assert "(exact)" in again
    assert "nothing left to do: 3 of 3 epochs are trained" in again


def test_every_file_the_readme_leads_to_exists():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_policy_to_copy_is_a_policy(path):
    assert load_policy(path, {"HOME": "/home/me", "USER": "me", "RUN": "a"}).plans


def test_the_version_in_the_changelog_or_unreleased_comes_first():
    first = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == "Unreleased" or re.fullmatch(r"\d+\.\d+\.\d+.*", first[1])


def test_docstring_examples_of_the_package_hold():
    import doctest
    import importlib
    import pkgutil

    import keras_savekit

    tried = 0
    for module in pkgutil.walk_packages(keras_savekit.__path__, "keras_savekit."):
        if module.name.rpartition(".")[2] in ("__main__", "child"):
            continue
        failed, count = doctest.testmod(importlib.import_module(module.name))
        assert not failed, module.name
        tried += count
    assert tried > 0
