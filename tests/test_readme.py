"""The README and the pages show what happens, and their links lead somewhere."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_savekit.policy.yaml.load import load_policy

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FILES = "https://github.com/keras-savekit/keras_savekit/blob/main/"
PICTURES = "https://raw.githubusercontent.com/keras-savekit/keras_savekit/main/"
# Links to these are checked once the files exist.
WRITTEN_ELSEWHERE = {"CONTRIBUTING.md", "SECURITY.md"}


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


@pytest.mark.slow
def test_the_program_of_the_tutorial_is_killed_resumed_and_ends_as_if_undisturbed(tmp_path):
    page = (ROOT / "docs" / "tutorial.md").read_text()
    policy, train, use = (
        *re.findall(r"```yaml\n(.*?)```", page, re.DOTALL),
        *re.findall(r"```python\n(.*?)```", page, re.DOTALL),
    )
    shorter = {"20_000": "4_000", "epochs=10": "epochs=2", "500 steps": "50 steps"}
    for whole, part in shorter.items():
        policy, train = policy.replace(whole, part), train.replace(whole, part)
    for place in (tmp_path / "undisturbed", tmp_path / "killed"):
        place.mkdir()
        (place / "policy.yaml").write_text(policy)
        (place / "train.py").write_text(train)
        (place / "use.py").write_text(use)

    def started(program, place):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, program],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    whole = started("train.py", tmp_path / "undisturbed").communicate(timeout=120)[0]
    with started("train.py", tmp_path / "killed") as training:
        while not any((tmp_path / "killed/runs").glob("*/checkpoints/[0-9]*/manifest.json")):
            assert training.poll() is None
            time.sleep(0.02)
        training.kill()
    again = started("train.py", tmp_path / "killed").communicate(timeout=120)[0]
    assert "(exact)" in again
    assert whole.splitlines()[-1].startswith("final loss")
    assert again.splitlines()[-1] == whole.splitlines()[-1]
    with started("use.py", tmp_path / "killed") as loading:
        assert loading.wait(120) == 0


def pages():
    found = [
        ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
    ]
    found += sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "benchmarks").glob("*.md"))
    return [page for page in found if page.exists()]


def links(page):
    """The links of a page, those into the repository as files."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        place, _, anchor = target.partition("#")
        for base in (FILES, PICTURES):
            if place.startswith(base):
                yield target, ROOT / place.removeprefix(base), anchor
        if "://" not in place and not target.startswith("mailto:"):
            yield target, page.parent / place if place else page, anchor


def anchors(page):
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_into_the_repository_leads_somewhere(page):
    for target, file, anchor in links(page):
        if file.name in WRITTEN_ELSEWHERE and not file.exists():
            continue
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_link_of_the_readme_is_absolute():
    """On the package index, links relative to the repository lead nowhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", README):
        assert target.startswith("https://"), target


def test_the_readme_fits_a_page():
    assert len(README.splitlines()) <= 120


def test_the_picture_is_what_its_program_draws():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "make_pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    assert pictures.RUN.read_text(encoding="utf-8") == pictures.picture()


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
