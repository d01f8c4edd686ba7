"""The public names of the package, and the cost of importing it."""

import ast
import importlib
import json
import os
import pickle
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import keras_savekit as sk
from keras_savekit import errors


def test_every_public_name_is_listed_once_and_exists():
    assert sorted(sk.__all__) == sk.__all__
    assert len(set(sk.__all__)) == len(sk.__all__)
    assert all(getattr(sk, name) is not None for name in sk.__all__)
    assert dir(sk) == sk.__all__


PUBLIC = [
    "CheckpointError",
    "ConversionError",
    "DataError",
    "Determinism",
    "DirectoryError",
    "DirectoryInUseError",
    "FullModelSaver",
    "MetricError",
    "MismatchError",
    "ModelError",
    "Policy",
    "PolicyError",
    "Restored",
    "ResumeError",
    "SaveError",
    "SaveKit",
    "SavePlan",
    "SavekitError",
    "SavekitWarning",
    "UnverifiableError",
    "WeightsSaver",
    "__version__",
    "allow_ops",
    "check_determinism",
    "load_model",
    "load_policy",
    "load_weights",
    "parse_policy",
    "restore",
    "resumable",
    "save_model",
    "save_weights",
    "to_keras",
]


def test_the_public_names_are_exactly_those_that_were_promised():
    """A name that is taken away breaks programs: only a new major version may do so."""
    assert sk.__all__ == PUBLIC


def test_the_typing_program_uses_every_public_name():
    program = ast.parse((Path(__file__).parent / "typing_surface.py").read_text())
    used = {
        node.attr
        for node in ast.walk(program)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "sk"
    }
    assert used == set(PUBLIC)


def test_the_public_names_have_the_types_that_a_strict_program_expects():
    """Only its own errors count: what the package contains is checked by `make lint`."""
    pytest.importorskip("mypy")  # not with the oldest libraries, whose types are others
    root = Path(__file__).parent.parent
    options = ["--no-incremental", "--cache-dir", os.devnull, "--follow-imports", "silent"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "tests/typing_surface.py"],
        cwd=root, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sk.nothing


def imported_by(statement):
    """Return the top-level modules that a statement imports in a new process."""
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    return {name.partition(".")[0] for name in json.loads(output)}


def test_importing_the_package_imports_no_heavy_library():
    assert not imported_by("import keras_savekit") & {"tensorflow", "keras", "h5py", "pydantic"}


@pytest.mark.parametrize(
    "statement",
    ["import keras_savekit as sk; sk.Policy; sk.load_policy", "import keras_savekit.cli.main"],
)
def test_policies_and_the_command_line_do_not_import_tensorflow(statement):
    assert not imported_by(statement) & {"tensorflow", "keras"}


# Each with the class it derives from and the exit status of `savekit`.
TREE = {
    "SavekitError": ("Exception", 2),
    "PolicyError": ("SavekitError", 2),
    "DirectoryError": ("SavekitError", 2),
    "DirectoryInUseError": ("DirectoryError", 2),
    "ModelError": ("SavekitError", 2),
    "ConversionError": ("SavekitError", 2),
    "DataError": ("SavekitError", 2),
    "MetricError": ("SavekitError", 2),
    "MismatchError": ("SavekitError", 2),
    "CheckpointError": ("SavekitError", 1),
    "UnverifiableError": ("CheckpointError", 1),
    "ResumeError": ("SavekitError", 2),
    "SaveError": ("SavekitError", 2),
}


def errors_defined():
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, Exception)
        and kind.__module__ == errors.__name__
    ]


def test_the_errors_are_exactly_those_that_were_promised():
    found = {
        kind.__name__: (kind.__base__.__name__, kind.exit_code)
        for kind in errors_defined()
        if kind is not errors.SavekitWarning
    }
    assert found == TREE
    assert all(len(kind.__bases__) == 1 for kind in errors_defined())
    assert errors.SavekitWarning.__base__ is UserWarning
    assert {kind.__name__ for kind in errors_defined()} <= set(sk.__all__)


def drawn(kind):
    """The branch of the tree that begins with a class, one line for each."""
    below = [each for each in errors_defined() if each.__base__ is kind]
    yield kind.__name__
    for each in below:
        last = each is below[-1]
        first, *rest = drawn(each)
        yield f"{'└' if last else '├'}── {first}"
        yield from (f"{' ' if last else '│'}   {line}" for line in rest)


def drawing():
    """The lines of the tree in the docstring: the drawing, and what is said of the class."""
    lines = [line.strip() for line in errors.__doc__.splitlines()]
    start = next(at for at, line in enumerate(lines) if line.startswith("SavekitError"))
    return [
        re.split(r" {2,}(?=\S*[a-z`])", line, maxsplit=1)
        for line in lines[start : lines.index("", start)]
    ]


def test_the_tree_in_the_docstring_is_the_tree():
    assert [line for line, _ in drawing()] == list(drawn(errors.SavekitError))


def test_the_tree_in_the_docstring_says_the_exit_status_where_it_differs():
    said = {}
    for line, words in drawing():
        name = line.split()[-1]
        status = re.search(r"exit (?:code|status) (\d)$", words)
        said[name] = int(status[1]) if status else said[TREE[name][0]]
    assert said == {name: status for name, (_, status) in TREE.items()}


@pytest.mark.parametrize("name", TREE)
def test_every_error_crosses_a_process_border_with_all_its_fields(name):
    error = getattr(errors, name)
    if error is errors.PolicyError:
        made = error("a.yaml", (errors.Problem("plans", "wrong", 3, 4),))
    else:
        made = error("what", "where", "remedy")
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is error
    assert (str(again), again.args) == (str(made), made.args)
    assert again.exit_code == TREE[name][1]


def test_a_wrong_policy_raises_one_exception_without_chained_ones(tmp_path):
    with pytest.raises(errors.PolicyError, match=r'did you mean "when"') as caught:
        sk.SaveKit({"plans": [{"name": "a", "wen": "every epoch"}]}, directory=tmp_path / "run")
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    assert lines.count("Traceback (most recent call last):") == 1
    assert not (tmp_path / "run").exists()


def test_every_module_has_a_docstring():
    import pkgutil

    for module in pkgutil.walk_packages(sk.__path__, "keras_savekit."):
        if module.name != "keras_savekit.__main__":
            assert importlib.import_module(module.name).__doc__, module.name
