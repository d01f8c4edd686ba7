"""Start a process that imports nothing of the working directory and inherits no secrets.

`start` is the only way in which this package starts an interpreter. A run's directory may
come from anywhere, and `savekit verify .` is typed inside of it: a `numpy.py` there must
not be imported, and neither must a `queue.py` beside the training script.

- **Import path.** `-I` (isolated mode, Python 3.4 and later) leaves out the working
  directory, the script's directory, `PYTHON*` variables, the user's `usercustomize` and
  `PYTHONSTARTUP`. The interpreter's own path (standard library, site-packages of the virtual
  environment, `.pth` files) comes from the interpreter. `import_path` hands over the rest.
- **This package** is imported from the directory in which it is here, by that directory's
  name: it is found however it was installed, and nothing else is found beside it.
- **Environment.** Only variables with a known purpose are passed (`environment`).
- **Working directory.** `/`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

NEUTRAL = "/"  # the working directory of what is started

# PYTHONHOME is not passed: an interpreter finds its library from its own place.
_PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|TEMP|TMP|TZ|TZDIR|LANG|LANGUAGE|LC_\w+"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|GLIBC_TUNABLES|XDG_CACHE_HOME"
    r"|(?:CUDA|CUDNN|NVIDIA|NCCL|ROCM|ROCR|HIP|HSA|TF|TF2|XLA|KERAS|HDF5|H5PY"
    r"|OMP|GOMP|KMP|MKL|OPENBLAS|GOTO|BLIS|VECLIB|NUMEXPR|NPY|ONEDNN|DNNL|MALLOC)_\w+",
    re.ASCII,
)
# TF_VAR_ and TF_TOKEN_ are Terraform's.
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH|APIKEY|(?:^|_)KEYS?(?:_|$)|^TF_VAR_", re.I
)
_LISTS = {"PATH": ":", "LD_LIBRARY_PATH": ":", "LD_PRELOAD": None}
_DIRECTORIES = ("HOME", "TMPDIR", "TEMP", "TMP", "KERAS_HOME", "XDG_CACHE_HOME")

_BOOTSTRAP = """
import sys
from importlib import import_module, util
from json import loads
package, module, path, *arguments = sys.argv[1:]
sys.argv[1:] = arguments
sys.path[:] = dict.fromkeys(loads(path) + sys.path)
spec = util.spec_from_file_location("keras_savekit", package)
sys.modules["keras_savekit"] = util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["keras_savekit"])
import_module(module).main(arguments)
"""


def start(
    module: str, arguments: Sequence[str], environ: Mapping[str, str], **options: Any
) -> subprocess.Popen[bytes]:
    """Start `main(arguments)` of a module of this package in an interpreter of its own.

    environ: the variables of the process, and no others; see `environment`.
    options: of `subprocess.Popen`.

    Raises OSError if no process can be started.
    """
    if not sys.executable:  # an interpreter within another program
        raise OSError(errno.ENOENT, "the Python interpreter is not known (sys.executable)")
    package = _absolute(str(Path(__file__).parents[2] / "__init__.py"))
    handed = json.dumps(import_path(sys.path))
    return subprocess.Popen(
        # Absolute, and not resolved: a virtual environment is found by the link's place.
        [_absolute(sys.executable), "-I", "-c", _BOOTSTRAP, package, module, handed, *arguments],
        stdin=subprocess.DEVNULL,
        cwd=NEUTRAL,
        env=dict(environ),
        **options,
    )


def import_path(entries: Iterable[object]) -> list[str]:
    """Of the import path `entries`, those that do not depend on where a program was started.

    Left out: relative and empty entries, the working directory and the script's
    directory. An absolute entry of PYTHONPATH stays, whatever it names.
    """
    places = {os.path.realpath(each) for each in _where_started()}
    return [
        each
        for each in entries
        if isinstance(each, str)
        and os.path.isabs(each)  # noqa: PTH117 - of text
        and (os.path.realpath(each) not in places or os.path.normpath(each) in _named())
    ]


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process of ours needs, with absolute paths only.

    Neither variables without a known purpose nor those that are named like a secret.
    """
    passed = {
        name: _absolute(value) if name in _DIRECTORIES and value else value
        for name, value in inherited.items()
        if _PASSED.fullmatch(name) and not _SECRET.search(name)
    }
    for name, separator in _LISTS.items():
        if name in passed:
            # An empty entry means the working directory.
            kept = [each for each in _split(passed[name], separator) if _not_relative(name, each)]
            passed[name] = (separator or ":").join(kept)
    return passed


def _split(value: str, separator: str | None) -> list[str]:
    return value.split(separator) if separator else re.split(r"[:\s]+", value)


def _not_relative(name: str, entry: str) -> bool:
    # The loader looks for a library without a slash in its own directories.
    bare = name == "LD_PRELOAD" and bool(entry) and "/" not in entry
    return bare or entry.startswith("/")


def _where_started() -> list[str]:
    found = [_STARTED_IN] if _STARTED_IN else []
    with suppress(OSError):  # it was removed
        found.append(os.getcwd())  # noqa: PTH109
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    # With a spec it was started by `python -m`, which puts the working directory first.
    if script and getattr(main, "__spec__", None) is None:
        found.append(str(Path(_absolute(script)).parent))
    return found


def _named() -> set[str]:
    """The absolute entries of PYTHONPATH."""
    if sys.flags.ignore_environment:
        return set()
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {os.path.normpath(each) for each in entries if each.startswith("/")}


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps `..`


def _started_in() -> str:
    with suppress(OSError):
        return os.getcwd()  # noqa: PTH109
    return ""


_STARTED_IN = _started_in()  # as well as can be known: a program may have changed it before
