"""Child processes import nothing from the working directory and inherit no secrets."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_builders import data, fit, model, plan, policy

import keras_savekit as sk
from keras_savekit.verify.loader import isolation, process
from keras_savekit.verify.loader.isolation import environment, import_path

ROOT = Path(__file__).parent.parent
POISON = (
    "numpy", "queue", "json", "keras", "tensorflow", "h5py", "sitecustomize", "usercustomize",
    "keras_savekit", "selectors", "torch", "pandas", "jax", "random", "typing_extensions",
)  # fmt: skip
# What a console script is: its directory comes first on the import path, not the working one.
SAVEKIT = "import sys\nfrom keras_savekit.cli.main import main\nsys.exit(main())\n"


def poison(directory, markers):
    """Modules that leave a marker when they are imported."""
    markers.mkdir(exist_ok=True)
    for name in POISON:
        text = f"open({str(markers / name)!r}, 'w').close()\nraise RuntimeError('imported')\n"
        (directory / f"{name}.py").write_text(text)


def run(arguments, cwd, **changes):
    variables = {**os.environ, "PYTHONPATH": str(ROOT)} | changes
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, env=variables, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """A run with one verified checkpoint, and the directory of the markers."""
    home = tmp_path_factory.mktemp("downloaded")
    kit = sk.SaveKit(policy(plan("train_end")), directory=home / "run", data=data())
    fit(model(), kit, epochs=1)
    poison(home / "run", home / "markers")
    (home / "bin").mkdir()
    (home / "bin" / "savekit").write_text(SAVEKIT)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("how", ["console script", "python -m"])
def test_verifying_the_working_directory_runs_none_of_its_code(downloaded, how):
    command = {"console script": [downloaded / "bin" / "savekit"], "python -m": None}[how]
    if command is None:
        if sys.version_info < (3, 11):
            pytest.skip("-P is of 3.11")
        command = ["-P", "-m", "keras_savekit"]
    done = run([*command, "verify", ".", "--depth", "load", "--json"], downloaded / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(done.stdout)["checkpoints"]
    assert (found["good"], found["done"], found["depth"]) == (True, True, "load"), found
    assert list((downloaded / "markers").iterdir()) == []


TRAIN = """
import sys
from pathlib import Path
import keras, numpy, tensorflow, h5py
import keras_savekit as sk
from test_isolation import poison
from training_builders import data, fit, model, plan, policy
poison(Path("."), Path("markers"))
kit = sk.SaveKit(policy(plan("train_end", verify="load")), directory="run", data=data())
fit(model(), kit, epochs=1)
(each,) = kit.directory.checkpoints()
print(each.status, each.verification.depth, each.verification.done, each.verification.note)
"""


@pytest.mark.slow
def test_a_training_verifies_though_its_directory_has_modules_of_any_name(tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    # An empty entry means the working directory.
    done = run(["train.py"], tmp_path, PYTHONPATH=f":{ROOT}:{ROOT / 'tests'}")
    assert done.stdout.splitlines()[-1].strip() == "verified load True", done.stdout + done.stderr
    assert list((tmp_path / "markers").iterdir()) == []


PROBE = """
import json, os, sys
def main(arguments):
    import keras_savekit
    found = [arguments, sys.path, dict(os.environ), os.getcwd(), keras_savekit.__file__]
    print(json.dumps(found))
"""


def started(tmp_path, monkeypatch, variables):
    """What a child process sees: arguments, import path, variables, directory, package."""
    (tmp_path / "shown_by_a_test.py").write_text(PROBE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    child = isolation.start("shown_by_a_test", ["1", "2"], variables, stdout=subprocess.PIPE)
    return json.loads(child.communicate()[0])


def test_a_child_process_starts_elsewhere_with_the_same_package(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "docs")
    arguments, path, variables, directory, package = started(tmp_path, monkeypatch, {"A": "b"})
    assert arguments == ["1", "2"]
    assert directory == "/"
    assert package == sk.__file__
    assert variables.keys() <= {"A", "LC_CTYPE"}  # the latter Python sets itself
    assert all(each.startswith(("/", "__editable__")) for each in path)
    assert str(tmp_path) in path
    assert any(each.endswith("site-packages") for each in path)
    assert str(ROOT / "docs") not in path


def test_relative_entries_and_the_start_directory_are_not_on_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    entries = ["", ".", "lib", here, f"{here}/link", f"{here}/lib", "/usr/lib", tmp_path]
    assert import_path(entries) == [f"{here}/lib", "/usr/lib"]
    # Named by its absolute path, it was chosen.
    monkeypatch.setenv("PYTHONPATH", f":lib:{here}/")
    assert import_path(entries) == [here, f"{here}/lib", "/usr/lib"]


def test_the_scripts_directory_is_not_on_the_path(tmp_path, monkeypatch):
    main = type(sys)("__main__")
    main.__file__, main.__spec__ = str(tmp_path / "train.py"), None
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert import_path([str(tmp_path), "/usr/lib"]) == ["/usr/lib"]
    main.__spec__ = object()  # `python -m`: the module may be anywhere, site-packages too
    assert import_path([str(tmp_path), "/usr/lib"]) == [str(tmp_path), "/usr/lib"]


@pytest.mark.parametrize("main", [None, type(sys)("__main__")], ids=["no module", "no file"])
def test_a_notebook_has_no_script_whose_directory_could_be_on_the_path(monkeypatch, main):
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert import_path(["/usr/lib"]) == ["/usr/lib"]


def test_needed_variables_are_passed_and_secrets_are_not():
    passed = {
        "PATH": "/bin", "HOME": "/root", "LANG": "C.UTF-8", "LC_ALL": "C", "TMPDIR": "/tmp",
        "LD_LIBRARY_PATH": "/usr/local/cuda/lib64", "CUDA_HOME": "/cuda", "TF_ENABLE_ONEDNN_OPTS":
        "0", "XLA_FLAGS": "--x", "KERAS_HOME": "/k", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS":
        "2", "MKL_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "2", "HDF5_USE_FILE_LOCKING": "FALSE",
    }  # fmt: skip
    kept_back = dict.fromkeys(
        [
            "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "GITHUB_TOKEN", "HF_TOKEN", "WANDB_API_KEY",
            "DB_PASSWORD", "TF_VAR_db", "TF_TOKEN_host", "KERAS_API_KEY", "TF_SECRET", "CUDA_AUTH",
            "RUN_KEY", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONINSPECT", "BASH_ENV",
            "SSH_AUTH_SOCK", "PWD", "OLDPWD", "DATABASE_URL", "PATHS", "MY_PATH",
        ],
        "x",
    )  # fmt: skip
    assert environment(passed | kept_back) == passed


def test_paths_in_variables_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {
        "PATH": ":/bin:.:bin", "LD_LIBRARY_PATH": "lib::/usr/lib", "TMPDIR": "tmp", "HOME": "",
        "LD_PRELOAD": "./evil.so libgomp.so.1 /usr/lib/libjemalloc.so",
    }  # fmt: skip
    assert environment(given) == {
        "PATH": "/bin", "LD_LIBRARY_PATH": "/usr/lib", "TMPDIR": f"{tmp_path}/tmp", "HOME": "",
        "LD_PRELOAD": "libgomp.so.1:/usr/lib/libjemalloc.so",
    }  # fmt: skip


def test_with_an_unknown_interpreter_the_verification_is_not_done(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(process.ChildError, match="no process can be started"):
        process.Child("keras_savekit.verify.loader.child", {})


STARTS = {
    "subprocess", "multiprocessing", "pty", "ProcessPoolExecutor", "fork", "forkpty", "system",
    "popen", "posix_spawn", "posix_spawnp", "create_subprocess_exec", "create_subprocess_shell",
    "runpy",
}  # fmt: skip


def starting(tree):
    """Names in a module with which a process can be started."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found = [getattr(node, "module", None) or "", *(each.name for each in node.names)]
            yield from (name for each in found for name in each.split("."))
        elif isinstance(node, ast.Attribute):
            yield node.attr
            if node.attr.startswith(("exec", "spawn")) and getattr(node.value, "id", "") == "os":
                yield "system"


def test_all_processes_are_started_by_one_function():
    found = {}
    for path in sorted((ROOT / "keras_savekit").rglob("*.py")):
        names = STARTS.intersection(starting(ast.parse(path.read_text())))
        if names:
            found[str(path.relative_to(ROOT / "keras_savekit"))] = names
    assert found == {
        "verify/loader/isolation.py": {"subprocess"},
        # Copies of the training made by fork, which run the user's own dataset as Keras does.
        "data/per_epoch.py": {"ProcessPoolExecutor"},
    }
