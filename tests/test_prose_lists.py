"""Lists of commands, events and modules in the pages are those of the code."""

import ast
import re
from pathlib import Path

import click
import pytest

from keras_savekit.cli.main import savekit

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_savekit"
DOCS = ROOT / "docs"
ARCHITECTURE = (DOCS / "architecture.md").read_text()


def section(page, title):
    return re.split(r"^## ", page.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name
)
def test_every_command_that_a_page_shows_exists(page):
    shown = re.findall(r"(?:^|`)savekit ([a-z][\w-]+)", page.read_text(), re.MULTILINE)
    assert set(shown) <= set(savekit.list_commands(click.Context(savekit)))


def test_a_page_that_explains_what_to_add_names_files_that_exist():
    for target in re.findall(r"`((?:tests|keras_savekit)/[\w/.]+)`", ARCHITECTURE):
        assert (ROOT / target).exists(), target


def appended():
    """Kind -> fields of every event that the code appends."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            to = node.func.value
            events = isinstance(to, ast.Attribute) and to.attr in ("events", "_events")
            noted = node.func.attr in ("defer_event", "_report_failure")
            if not (noted or (events and node.func.attr == "append")) or not node.args:
                continue
            kind = node.args[0]
            if isinstance(kind, ast.Constant) and isinstance(kind.value, str):
                fields = found.setdefault(kind.value, set())
                fields |= {each.arg for each in node.keywords if each.arg}
    return found


def test_every_event_is_in_the_table_and_no_other():
    shown = {
        row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2]))
        for row in rows(section((DOCS / "run-directory.md").read_text(), "Events"))
    }
    found = appended()
    assert set(shown) == set(found)
    for kind, fields in found.items():
        assert fields <= shown[kind], kind


def named(text):
    """Modules and packages as the page names them: `store/atomic`, `policy/rules/`."""
    return set(re.findall(r"`((?:[a-z]\w*/)+(?:[a-z]\w*)?)`", text))


def test_every_module_that_the_architecture_names_exists():
    missing = []
    for name in named(ARCHITECTURE) - {"tests/golden", "quarantine/"}:
        at = PACKAGE / name
        there = at.is_dir() if name.endswith("/") else at.with_suffix(".py").exists()
        if not there and not at.is_dir():
            missing.append(name)
    assert missing == []


def test_every_module_that_imports_private_api_is_named():
    (sentence,) = re.findall(r"^Private API.*?only\.", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    importing = {
        str(path.relative_to(PACKAGE).with_suffix(""))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^\s*from (keras\.src|tensorflow\.python)", path.read_text(), re.MULTILINE)
    }
    assert importing <= named(sentence)


def test_every_package_is_in_the_table_of_the_house():
    packages = {
        f"{path.parent.relative_to(PACKAGE)}/"
        for path in PACKAGE.rglob("__init__.py")
        if path.parent != PACKAGE
    }
    house = section(ARCHITECTURE, "The house")
    assert {row[0].strip("`") for row in rows(house)} == packages


def test_the_page_of_killed_trainings_is_what_its_program_writes_and_the_readme_counts_it():
    import exactness

    page = (DOCS / "exactness.md").read_text()
    cells = [cell for row in rows(page) for cell in row[2:]]
    assert (
        page.splitlines()[:8] == exactness.table(dict.fromkeys(exactness.cases())).splitlines()[:8]
    )
    assert set(cells) == {"equal"}
    assert f"| {len(cells)} trainings killed and resumed" in (ROOT / "README.md").read_text()


def test_every_rung_of_the_ladder_is_explained():
    from torture import __main__ as scoreboard

    shown = rows(scoreboard.INTRODUCTION)
    assert [row[0] for row in shown] == list(scoreboard.RUNGS)


def test_the_versions_page_says_what_is_declared():
    setup = (ROOT / "setup.cfg").read_text()
    shown = {row[0]: row for row in rows((DOCS / "versions.md").read_text())}
    for name, word in (("TensorFlow", "tensorflow"), ("Keras", "keras")):
        assert re.search(rf"^    {word}>={re.escape(shown[name][1])}$", setup, re.MULTILINE)
    assert f"python_requires = >={shown['Python'][1]}" in setup
    assert f"Programming Language :: Python :: {shown['Python'][2]}" in setup
