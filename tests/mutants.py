"""Break the package in small ways, one at a time, and see whether a test fails.

    python tests/mutants.py                     a hundred mutants of every package: an hour or more
    python tests/mutants.py --only policy store --count 40 --cheap

Each mutant is one edit of one file: another operator, a negated condition, a dropped statement.
It is made in a copy of the package; the working tree is never changed. The tests that import the
changed module run against the copy, nearest first. A mutant that no test notices *survives*: a test
is missing, or the edit changes nothing that matters. The second kind is listed in `EQUIVALENT`,
with the reason.

Which mutants are drawn depends on the seed and on the changed lines alone. So moving a file or
editing another function does not draw others.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from shutil import copytree, ignore_patterns

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = REPOSITORY / "tests"
NAME = "keras_savekit"
TARGETS = ("policy", "store", "save", "resume", "formats", "verify")
# What makes a test slow: it starts Keras.
HEAVY = {"keras", "tensorflow", "tf_keras", NAME}
# How many test files are run for one mutant, without Keras and with it, and for how long.
LIGHT_FILES, HEAVY_FILES = 12, 4
NEAREST = 3  # of those without Keras, the files that are run first
LIGHT_SECONDS, HEAVY_SECONDS = 300, 600

# Edits that change nothing a user or a test can see: the edited line, and why.
EQUIVALENT = {
    "return with_epochs or horizon(policy, Moment(), 2) != NEVER": (
        "stretched intervals are as far from never as others"
    ),
}


@dataclass(frozen=True)
class Mutant:
    """One edit. `start` and `end` count bytes of the file; `function` is its dotted name."""

    path: Path  # within the package
    function: str
    line: int
    start: int
    end: int
    new: bytes
    source: bytes

    @property
    def mutated(self) -> bytes:
        return self.source[: self.start] + self.new + self.source[self.end :]

    @property
    def before(self) -> str:
        return _lines(self.source, self.start, self.end)

    @property
    def after(self) -> str:
        return _lines(self.mutated, self.start, self.start + len(self.new))

    @property
    def compiles(self) -> bool:
        """Whether it is Python still: an operator may have had parentheses of its own."""
        try:
            compile(self.mutated, str(self.path), "exec")
        except SyntaxError:
            return False
        return True

    @property
    def equivalent(self) -> str:
        """Why no test can notice it, empty if one should."""
        return EQUIVALENT.get(self.after, "")

    def __str__(self) -> str:
        place = f"{NAME}/{self.path}:{self.line}: in {self.function}"
        return f"{place}\n  - {self.before}\n  + {self.after}"


def _lines(source: bytes, start: int, end: int) -> str:
    first = source.rfind(b"\n", 0, start) + 1
    last = source.find(b"\n", end)
    return " ".join(source[first : last if last >= 0 else None].decode().split())


# Edits of one file.

_COMPARISONS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "+",
}  # fmt: skip
_OTHER_NAME = {"min": "max", "max": "min", "any": "all", "all": "any"}


class _Edits(ast.NodeVisitor):
    """Every edit of one file, as (function, line, start, end, new text)."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.within: list[str] = []
        self.found: list[tuple[str, int, int, int, bytes]] = []

    def _at(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.end_lineno, node.end_col_offset)

    def _text(self, node: ast.expr | ast.stmt) -> bytes:
        return self.source[self._start(node) : self._end(node)]

    def _add(self, node: ast.expr | ast.stmt, start: int, end: int, new: str | bytes) -> None:
        text = new.encode() if isinstance(new, str) else new
        self.found.append((".".join(self.within), node.lineno, start, end, text))

    def _replace(self, node: ast.expr | ast.stmt, new: str | bytes) -> None:
        self._add(node, self._start(node), self._end(node), new)

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Edit the operator that stands between two expressions."""
        start, end = self._end(left), self._start(right)
        at = self.source.find(old.encode(), start, end)
        if at >= 0:
            self._add(right, at, at + len(old), new)

    # Only functions are edited: what runs at import is mostly names and annotations.

    def visit_Module(self, node: ast.Module) -> None:
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.within.append(node.name)
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self.visit(statement)
        self.within.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.within.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.within.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        of_error = self.within[0].endswith("Error") and self._text(node).startswith(b"super()")
        if isinstance(node.value, ast.Call) and not of_error:  # Python keeps an error's arguments
            self._replace(node, "pass")
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")  # and leave its words alone

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self._replace(node, "return None")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._negate(condition)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.NamedExpr):
            self._replace(test, b"not (" + self._text(test) + b")")

    def visit_IfExp(self, node: ast.IfExp) -> None:
        swapped = b" ".join(
            (self._text(node.orelse), b"if", self._text(node.test), b"else", self._text(node.body))
        )
        self._replace(node, b"(" + swapped + b")")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        first, *rest = node.values
        for left, right in zip(node.values, rest, strict=False):
            self._between(left, right, old, new)
            self._add(right, self._end(left), self._end(right), "")  # one condition dropped
        self._add(first, self._start(first), self._start(rest[0]), "")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
            start, end = self._end(left), self._start(right)
            self._add(right, start, end, f" {_COMPARISONS[type(operator)]} ")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        new = _ARITHMETIC.get(type(node.op))
        text = any(isinstance(side, ast.JoinedStr) for side in (node.left, node.right)) or any(
            isinstance(side, ast.Constant) and isinstance(side.value, str | bytes)
            for side in (node.left, node.right)
        )
        if new is not None and not text:
            self._add(node.right, self._end(node.left), self._start(node.right), f" {new} ")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value))
        elif isinstance(node.value, int):
            self._replace(node, str(node.value + 1))

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in ("indent", "stacklevel"):
            self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave the words of messages alone."""

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _OTHER_NAME:
            self._replace(node.func, _OTHER_NAME[node.func.id])
        self.generic_visit(node)


def mutants_of(path: Path, package: Path) -> Iterator[Mutant]:
    """Every mutant of one file, those too that do not compile."""
    source = path.read_bytes()
    edits = _Edits(source)
    edits.visit(ast.parse(source))
    seen = {source}
    for function, line, start, end, new in edits.found:
        mutant = Mutant(path.relative_to(package), function, line, start, end, new, source)
        if mutant.mutated in seen:
            continue
        seen.add(mutant.mutated)
        yield mutant


def draw(
    targets: Iterable[str], count: int, seed: int, package: Path, *, cheap: bool = False
) -> list[Mutant]:
    """`count` mutants of these packages or modules, in the order of their digests.

    cheap: only of modules that have tests without Keras.
    """
    files = [path for target in targets for path in _files(package, target)]
    if cheap:
        files = [path for path in files if tests_for(_module(path, package.parent))[0]]
    every = [mutant for path in files for mutant in mutants_of(path, package)]

    def digest(mutant: Mutant) -> bytes:
        key = "\0".join((str(seed), mutant.function, mutant.before, mutant.after))
        return hashlib.sha256(key.encode()).digest()

    wanted = (mutant for mutant in sorted(every, key=digest) if not mutant.equivalent)
    return list(islice((mutant for mutant in wanted if mutant.compiles), count))


def _files(package: Path, target: str) -> list[Path]:
    place = package / target.replace(".", "/")
    if place.is_dir():
        return sorted(place.rglob("*.py"))
    return [found] if (found := place.with_suffix(".py")).is_file() else []


# Which tests look at a module: whatever imports it, nearest first.


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _sources() -> dict[str, Path]:
    """Every module of the package and every file of the tests, by the name it is imported under."""
    ours = {_module(path, REPOSITORY): path for path in (REPOSITORY / NAME).rglob("*.py")}
    return ours | {_module(path, TESTS): path for path in TESTS.rglob("*.py")}


@cache
def imports(module: str) -> frozenset[str]:
    """The modules that a module names in import statements, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(_sources()[module].read_bytes())):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            modules = inner & _sources().keys()
            found |= modules
            if len(modules) < len(inner):
                found.add(node.module)
    return frozenset(found)


@cache
def is_heavy(test: str) -> bool:
    """Whether a test file, or a builder that it uses, imports Keras or the whole package."""
    pending, seen = [test], {test}
    while pending:
        for name in imports(pending.pop()) - seen:
            if name.partition(".")[0] in HEAVY - {NAME} or name == NAME:
                return True
            seen.add(name)
            if name in _sources() and not name.startswith(f"{NAME}."):
                pending.append(name)
    return False


@cache
def distances(module: str) -> dict[str, int]:
    """Test files by how many imports lie between each and a module."""
    importers: dict[str, list[str]] = {}
    for name in _sources():
        for imported in imports(name):
            importers.setdefault(imported, []).append(name)
    found, pending = {module: 0}, deque([module])
    while pending:
        name = pending.popleft()
        for importer in importers.get(name, ()):
            if importer not in found:
                found[importer] = found[name] + 1
                pending.append(importer)
    return {
        name: distance
        for name, distance in found.items()
        if name.startswith("test_") and not name.startswith(NOT_RUN)
    }


# Programs of minutes, and the tests of this file.
NOT_RUN = (
    "test_mutants",
    "test_torture",
    "test_benchmarks",
    "test_coverage",
    "test_exactness",
    "test_fuzz",
    "test_contributing",
    "test_packaging",
)


def tests_for(module: str) -> tuple[list[Path], list[Path]]:
    """Test files for a module, nearest first: those without Keras, and the nearest with it."""
    near = distances(module)
    ordered = sorted(near, key=lambda name: (near[name], name))
    light = [_sources()[name] for name in ordered if not is_heavy(name)]
    heavy = [_sources()[name] for name in ordered if is_heavy(name)]
    return light[:LIGHT_FILES], heavy[:HEAVY_FILES]


# Running them.


@dataclass(frozen=True)
class Copy:
    """The package in a directory of its own, with everything else of the repository beside it."""

    root: Path

    @classmethod
    def made_in(cls, root: Path) -> Copy:
        for entry in REPOSITORY.iterdir():
            if entry.name != NAME and not entry.name.startswith("."):
                (root / entry.name).symlink_to(entry)
        copytree(REPOSITORY / NAME, root / NAME, ignore=ignore_patterns("__pycache__"))
        return cls(root)

    def run(self, tests: Sequence[Path], patience: float) -> str:
        """Run tests against this copy; what failed, empty if nothing did."""
        if not tests:
            return ""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(self.root), str(TESTS))),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        options = (
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-m",
            "not slow",
            "-o",
            "timeout=60",
        )
        configured = ("-c", str(REPOSITORY / "setup.cfg"), "--rootdir", str(REPOSITORY))
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *configured, *map(str, tests)],
            cwd=self.root, env=environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=patience)
            except subprocess.TimeoutExpired:
                return f"no end within {patience:g} s"
            finally:  # with whatever the tests started
                if process.returncode != 0:
                    _end_group(process)
        if process.returncode in (0, 5):  # 5: nothing left to run without the slow ones
            return ""
        failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0] if failed else output.strip()[-500:] or f"status {process.returncode}"

    def caught(self, mutant: Mutant, *, cheap: bool) -> str:
        """What notices a mutant, empty if nothing does."""
        place = self.root / NAME / mutant.path
        light, heavy = tests_for(_module(REPOSITORY / NAME / mutant.path, REPOSITORY))
        place.write_bytes(mutant.mutated)
        try:
            return (
                self.run(light[:NEAREST], LIGHT_SECONDS)
                or self.run(light[NEAREST:], LIGHT_SECONDS)
                or ("" if cheap else self.run(heavy, HEAVY_SECONDS))
            )
        finally:
            place.write_bytes(mutant.source)


def _end_group(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def survivors(
    mutants: Sequence[Mutant], *, cheap: bool, jobs: int = 1, tell: bool = False
) -> list[Mutant]:
    """The mutants that no test notices. Raise if the tests fail without any."""
    with tempfile.TemporaryDirectory() as home:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(jobs):
            root = Path(home, str(number))
            root.mkdir()
            copies.put(Copy.made_in(root))

        def tried(mutant: Mutant) -> str:
            copy, began = copies.get(), time.monotonic()
            try:
                found = copy.caught(mutant, cheap=cheap)
            finally:
                copies.put(copy)
            if tell:
                seconds = time.monotonic() - began
                print(f"{'caught' if found else 'SURVIVES'} in {seconds:.0f} s: {mutant}")
                print(f"    {found[:160]}", flush=True)
            return found

        with ThreadPoolExecutor(jobs) as pool:
            found = list(pool.map(tried, mutants))
    return [mutant for mutant, by in zip(mutants, found, strict=True) if not by]


def main() -> int:
    """Print the survivors; 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=TARGETS, help="packages or modules to change")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="mutants that are tried at once")
    parser.add_argument("--cheap", action="store_true", help="only tests that start no Keras")
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    asked = parser.parse_args()
    drawn = draw(asked.only, asked.count, asked.seed, REPOSITORY / NAME, cheap=asked.cheap)
    if asked.list:
        print(*drawn, sep="\n")
        return 0
    left = survivors(drawn, cheap=asked.cheap, jobs=asked.jobs, tell=True)
    print(f"\n{len(drawn) - len(left)} of {len(drawn)} mutants are caught; these survive:")
    print(*left, sep="\n")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
