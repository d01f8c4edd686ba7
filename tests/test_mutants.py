"""The tests fail when the code breaks: a small dose of what `make mutants` tries."""

from pathlib import Path

import mutants
import pytest
from mutants import NAME, REPOSITORY, TESTS, Copy, Mutant

PACKAGE = REPOSITORY / NAME
SOURCE = '''
"""A module."""
LIMIT = 3


def newest(names: list[str], least: int = 1) -> str | None:
    """Return one."""
    if not names or len(names) < least:
        raise ValueError("none of 3")
    names.sort()
    return max(name for name in names if name and name != "x")
'''


def edits(tmp_path, source):
    (tmp_path / "module.py").write_text(source)
    found = mutants.mutants_of(tmp_path / "module.py", tmp_path)
    return [(mutant.before, mutant.after) for mutant in found]


def test_operators_conditions_constants_and_statements_are_edited_and_words_are_not(tmp_path):
    condition, found = "if not names or len(names) < least:", edits(tmp_path, SOURCE)
    returned = 'return max(name for name in names if name and name != "x")'
    raised, sort = 'raise ValueError("none of 3")', "names.sort()"
    assert sorted(found) == sorted(
        [
            (condition, "if not (not names or len(names) < least):"),
            (condition, "if not names and len(names) < least:"),
            (condition, "if not names:"),
            (condition, "if len(names) < least:"),
            (condition, "if not names or len(names) <= least:"),
            (raised, "pass"),
            (sort, "pass"),
            (returned, "return None"),
            (returned, returned.replace("max", "min")),
            (returned, returned.replace('name and name != "x"', 'not (name and name != "x")')),
            (returned, returned.replace("and", "or")),
            (returned, returned.replace("name and ", "")),
            (returned, returned.replace(' and name != "x"', "")),
            (returned, returned.replace("!=", "==")),
        ]
    )


def test_the_same_lines_are_drawn_wherever_they_are(tmp_path):
    def drawn(target, text):
        path = tmp_path / target / "module.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return [(each.before, each.after) for each in mutants.draw([target], 5, 1, tmp_path)]

    assert drawn("old", SOURCE) == drawn("new/place", f"\n\n\n{SOURCE}")


def test_the_nearest_tests_are_run_first_and_those_without_keras_before_the_others():
    light, heavy = mutants.tests_for(f"{NAME}.policy.plan")
    assert TESTS / "test_policy_plan.py" in light
    assert TESTS / "test_pipeline.py" in heavy
    assert not set(light) & set(heavy)
    assert light.index(TESTS / "test_policy_plan.py") < len(light) - 1


def test_every_edit_that_is_listed_as_equivalent_is_one_of_todays_code():
    files = [path for name in ("policy", "store") for path in (PACKAGE / name).rglob("*.py")]
    after = {mutant.after for path in files for mutant in mutants.mutants_of(path, PACKAGE)}
    assert mutants.EQUIVALENT.keys() - after == set()


def harmless(path):
    source = (PACKAGE / path).read_bytes()
    return Mutant(Path(path), "", 1, len(source), len(source), b"# nothing\n", source)


def broken(path):
    source = (PACKAGE / path).read_bytes()
    return Mutant(Path(path), "", 1, len(source), len(source), b"raise SystemError\n", source)


def test_what_no_test_notices_survives_and_the_working_tree_is_not_changed(monkeypatch):
    light = [TESTS / "test_policy_units.py"]
    monkeypatch.setattr(mutants, "tests_for", lambda module: (light, []))
    path = "policy/units.py"
    before = (PACKAGE / path).read_bytes()
    tried = [broken(path), harmless(path)]
    assert mutants.survivors(tried, cheap=True) == tried[1:]
    assert (PACKAGE / path).read_bytes() == before


def test_a_test_that_never_ends_counts_as_noticed(tmp_path):
    (tmp_path / "test_endless.py").write_text("def test_it():\n    while True: pass\n")
    (tmp_path / "copy").mkdir()
    copy = Copy.made_in(tmp_path / "copy")
    assert "no end within 3 s" in copy.run([tmp_path / "test_endless.py"], 3)


@pytest.mark.slow
def test_a_dose_of_small_edits_is_noticed():
    drawn = mutants.draw(("policy", "store"), 3, 1, PACKAGE)
    left = mutants.survivors(drawn, cheap=True)
    assert not left, "no test fails with:\n" + "\n".join(map(str, left))
