"""Start a process that imports nothing from the working directory and inherits no secrets.

This package starts interpreters only with `start`. A run's directory may be of unknown
origin, and users run `savekit verify .` in it: a `numpy.py` there must not be imported, and
neither must a `queue.py` in the directory of the training script.

- **Import path.** `-I` (isolated mode, Python 3.4 and later) leaves out the working
  directory, the script's directory, `PYTHON*` variables, the user's `usercustomize` and
  `PYTHONSTARTUP`. The interpreter's own path (standard library, site-packages of the virtual
  environment, `.pth` files) comes from the interpreter. `import_path` selects the rest.
- **This package** is imported from its own directory by path: it is found however it was
  installed, and no other module in the parent directory is.
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

NEUTRAL = "/"  # the working directory of the process

# PYTHONHOME is not passed: an interpreter finds its library from its own path.
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
    if not sys.executable:  # an interpreter embedded in another program
        raise OSError(errno.ENOENT, "the Python interpreter is not known (sys.executable)")
    package = _absolute(str(Path(__file__).parents[2] / "__init__.py"))
    handed = json.dumps(import_path(sys.path))
    return subprocess.Popen(
        # Absolute but not resolved: the link's path identifies the virtual environment.
        [_absolute(sys.executable), "-I", "-c", _BOOTSTRAP, package, module, handed, *arguments],
        stdin=subprocess.DEVNULL,
        cwd=NEUTRAL,
        env=dict(environ),
        **options,
    )


def import_path(entries: Iterable[object]) -> list[str]:
    """Return the entries of an import path that do not depend on where the program was started.

    Left out are relative and empty entries, the working directory and the script's
    directory. Absolute entries of PYTHONPATH stay in any case.
    """
    excluded = {os.path.realpath(path) for path in _start_directories()}
    return [
        entry
        for entry in entries
        if isinstance(entry, str)
        and os.path.isabs(entry)  # noqa: PTH117 - of text
        and (os.path.realpath(entry) not in excluded or os.path.normpath(entry) in _requested())
    ]


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the process needs, with absolute paths only.

    Variables without a known purpose, and those that are named like a secret, are left out.
    """
    passed = {
        name: _absolute(value) if name in _DIRECTORIES and value else value
        for name, value in inherited.items()
        if _PASSED.fullmatch(name) and not _SECRET.search(name)
    }
    for name, separator in _LISTS.items():
        if name in passed:
            # An empty entry means the working directory.
            kept = [entry for entry in _split(passed[name], separator) if _is_absolute(name, entry)]
            passed[name] = (separator or ":").join(kept)
    return passed


def _split(value: str, separator: str | None) -> list[str]:
    return value.split(separator) if separator else re.split(r"[:\s]+", value)


def _is_absolute(name: str, entry: str) -> bool:
    # The dynamic linker searches a name without a slash in its own directories only.
    bare = name == "LD_PRELOAD" and bool(entry) and "/" not in entry
    return bare or entry.startswith("/")


def _start_directories() -> list[str]:
    found = [_STARTED_IN] if _STARTED_IN else []
    with suppress(OSError):  # the directory was removed
        found.append(os.getcwd())  # noqa: PTH109
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    # With a spec, it was started by `python -m`: then the working directory is on the path.
    if script and getattr(main, "__spec__", None) is None:
        found.append(str(Path(_absolute(script)).parent))
    return found


def _requested() -> set[str]:
    """Return the absolute entries of PYTHONPATH."""
    if sys.flags.ignore_environment:
        return set()
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {os.path.normpath(entry) for entry in entries if entry.startswith("/")}


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps `..`


def _started_in() -> str:
    with suppress(OSError):
        return os.getcwd()  # noqa: PTH109
    return ""


_STARTED_IN = _started_in()  # a program may have changed it before this import
