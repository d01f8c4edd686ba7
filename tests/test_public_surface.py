"""What the package promises by name, and what importing it costs."""

import importlib
import json
import pickle
import subprocess
import sys

import pytest

import keras_savekit as sk
from keras_savekit import errors


def test_every_public_name_is_listed_once_and_found():
    assert sorted(sk.__all__) == sk.__all__
    assert len(set(sk.__all__)) == len(sk.__all__)
    assert all(getattr(sk, name) is not None for name in sk.__all__)
    assert dir(sk) == sk.__all__


def test_public_names_are_those_that_users_were_promised():
    promised = {
        "FullModelSaver", "Policy", "SaveKit", "SavePlan", "WeightsSaver", "load_policy",
        "parse_policy", "resumable",
    }  # fmt: skip
    assert promised <= set(sk.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sk.nothing


def imported_by(statement):
    """The top modules that a statement brings into a fresh process."""
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    return {name.partition(".")[0] for name in json.loads(shown)}


def test_importing_the_package_starts_nothing_heavy():
    assert not imported_by("import keras_savekit") & {"tensorflow", "keras", "h5py", "pydantic"}


@pytest.mark.parametrize(
    "statement",
    ["import keras_savekit as sk; sk.Policy; sk.load_policy", "import keras_savekit.cli.main"],
)
def test_policies_and_the_command_line_start_no_tensorflow(statement):
    assert not imported_by(statement) & {"tensorflow", "keras"}


TREE = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.SavekitError)
]


@pytest.mark.parametrize("error", TREE, ids=lambda each: each.__name__)
def test_every_error_crosses_a_process_border_with_all_its_fields(error):
    if error is errors.PolicyError:
        made = error("a.yaml", (errors.Problem("plans", "wrong", 3, 4),))
    else:
        made = error("what", "where", "remedy")
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is error
    assert (str(again), again.args) == (str(made), made.args)
    assert again.exit_code in (1, 2)


def test_the_tree_in_the_docstring_is_the_tree():
    assert all(each.__name__ in errors.__doc__ for each in TREE)


def test_every_module_says_what_it_is():
    import pkgutil

    for module in pkgutil.walk_packages(sk.__path__, "keras_savekit."):
        if module.name != "keras_savekit.__main__":
            assert importlib.import_module(module.name).__doc__, module.name
