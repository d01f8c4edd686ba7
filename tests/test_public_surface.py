"""The public names of the package, and the cost of importing it."""

import importlib
import json
import pickle
import subprocess
import sys
import traceback

import pytest

import keras_savekit as sk
from keras_savekit import errors


def test_every_public_name_is_listed_once_and_exists():
    assert sorted(sk.__all__) == sk.__all__
    assert len(set(sk.__all__)) == len(sk.__all__)
    assert all(getattr(sk, name) is not None for name in sk.__all__)
    assert dir(sk) == sk.__all__


def test_the_promised_public_names_exist():
    promised = {
        "FullModelSaver", "Policy", "SaveKit", "SavePlan", "WeightsSaver", "load_policy",
        "parse_policy", "resumable",
    }  # fmt: skip
    assert promised <= set(sk.__all__)


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


TREE = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.SavekitError)
]


@pytest.mark.parametrize("error", TREE, ids=lambda error: error.__name__)
def test_every_error_crosses_a_process_border_with_all_its_fields(error):
    if error is errors.PolicyError:
        made = error("a.yaml", (errors.Problem("plans", "wrong", 3, 4),))
    else:
        made = error("what", "where", "remedy")
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is error
    assert (str(again), again.args) == (str(made), made.args)
    assert again.exit_code in (1, 2)


def test_a_wrong_policy_raises_one_exception_without_chained_ones(tmp_path):
    with pytest.raises(errors.PolicyError, match=r'did you mean "when"') as caught:
        sk.SaveKit({"plans": [{"name": "a", "wen": "every epoch"}]}, directory=tmp_path / "run")
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    assert lines.count("Traceback (most recent call last):") == 1
    assert not (tmp_path / "run").exists()


def test_the_tree_in_the_docstring_is_the_tree():
    assert all(error.__name__ in errors.__doc__ for error in TREE)


def test_every_module_has_a_docstring():
    import pkgutil

    for module in pkgutil.walk_packages(sk.__path__, "keras_savekit."):
        if module.name != "keras_savekit.__main__":
            assert importlib.import_module(module.name).__doc__, module.name
