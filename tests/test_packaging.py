"""What is declared, built and shipped is what the code needs."""

import ast
import configparser
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "keras_savekit"
# Where a module has another name than what is installed.
DISTRIBUTIONS = {"yaml": "pyyaml", "google": "protobuf"}
ONLY_FOR_DEVELOPMENT = {"demo", "test", "bench", "fuzz", "dev", "docs"}
NOT_SOURCE = ignore_patterns(
    ".git",
    ".venv*",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
    ".*_cache",
    ".hypothesis",
    "runs",
)


def configuration():
    read = configparser.ConfigParser(interpolation=None)
    read.read(ROOT / "setup.cfg")
    return read


def requirements(text):
    """Normalized name to lower bound."""
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("%")]
    pairs = (
        re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[.*\])?(?:[>=]=(.+))?", line.strip()) for line in lines
    )
    return {found[1].lower().replace("_", "-"): found[2] for found in pairs if found}


def required():
    return requirements(configuration()["options"]["install_requires"])


def imported():
    """Distribution to one file of the package that imports it."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            for name in (name.partition(".")[0] for name in names):
                if name != PACKAGE and name not in sys.stdlib_module_names:
                    distribution = DISTRIBUTIONS.get(name, name).lower().replace("_", "-")
                    found[distribution] = path.relative_to(ROOT)
    return found


def test_every_module_that_is_imported_belongs_to_a_declared_requirement():
    extras = configuration()["options.extras_require"]
    optional = {
        name
        for extra, text in extras.items()
        if extra not in ONLY_FOR_DEVELOPMENT
        for name in requirements(text)
    }
    missing = {
        name: path for name, path in imported().items() if name not in {*required(), *optional}
    }
    assert missing == {}


def test_nothing_is_required_that_is_not_imported():
    assert required().keys() - imported().keys() == set()


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds():
    pinned = requirements((ROOT / "tests" / "oldest.txt").read_text())
    for name, bound in required().items():
        assert pinned[name].startswith(bound), name
        assert set(pinned[name].removeprefix(bound)) <= {".", "0"}, name


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy: building writes beside what it builds."""
    place = tmp_path_factory.mktemp("built") / "source"
    return copytree(ROOT, place, ignore=NOT_SOURCE)


def built(source, *command):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=source, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_has_the_package_its_types_the_policies_to_copy_and_the_schema(source):
    wheels = source.parent / "wheels"
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    built(source, "-m", "pip", "wheel", *options, "--wheel-dir", str(wheels), ".")
    (path,) = wheels.iterdir()
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        said = wheel.read(metadata).decode()
    code = {str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).rglob("*.py")}
    assert code | {f"{PACKAGE}/py.typed"} == {
        name for name in names if name.startswith(PACKAGE + "/")
    }
    shared = {name.partition("/share/")[2] for name in names if "/share/" in name}
    configs = {f"{PACKAGE}/configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    assert shared == configs | {f"{PACKAGE}/docs/policy.schema.json"}
    assert "Project-URL: Issues, https://github.com/keras-savekit/keras_savekit/issues" in said
    assert "Author: keras_savekit maintainers" in said
    assert not any(name.startswith(("tests", "benchmarks", "examples")) for name in names)


def test_the_source_archive_has_what_the_tests_read(source):
    archives = source.parent / "archives"
    archives.mkdir()
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    built(source, "-c", program, str(archives))
    (path,) = archives.iterdir()
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in (PACKAGE, "tests", "docs", "configs", "benchmarks", "examples", ".github", ".ci"):
        needed = {
            str(path.relative_to(source))
            for path in (source / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert needed
        assert needed <= names, folder
    assert {"Makefile", "CHANGELOG.md", "README.md", "LICENSE", "pyproject.toml"} <= names
    assert {"CONTRIBUTING.md", "SECURITY.md"} <= names
