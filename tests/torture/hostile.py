"""Rung: files made to do harm, given to everything that reads.

For each: one clear error of ours, or findings; never another exception, a file
outside of the run's directory touched, a control character on the terminal, more
than `ROOM` of memory or `PATIENCE` of time. A bad checkpoint is set aside, and the
good one before it serves.

Runs in a process of its own, so that its memory can be limited and every file that
Python opens is seen; what HDF5 opens is seen by the times of access, where the
file system keeps them. A file built to send the HDF5 library into an endless loop,
with a manifest forged to fit it, is not tried: no process can end that for itself.
`savekit verify --depth load` has a time limit, `structure` has none.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np
from test_store_builders import prepared, unlocked

from torture.score import Score

ROOM = 1536 * 2**20
PATIENCE = 30.0
MB = 2**20


@dataclass(frozen=True)
class World:
    """A run with two good checkpoints, of which the newer is to be made hostile.

    outside: a good checkpoint and a secret, which nobody may touch.
    """

    home: Path
    outside: Path
    chance: random.Random

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def victim(self) -> Path:
        return self.run / "checkpoints" / NEWEST

    def manifest(self, change: Callable[[dict], None]) -> None:
        """The victim's manifest changed and sealed anew, with what is true of its files."""
        from torture.corruption import sealed

        path = self.victim / "manifest.json"
        content = json.loads(path.read_text())
        for entry in content["files"]:
            file = self.victim / entry["name"]
            if file.is_file() and not file.is_symlink():
                entry["size"], entry["digest"] = file.stat().st_size, digest(file)
        change(content)
        path.write_bytes(sealed(content))


NEWEST, BEFORE = "000000002-p", "000000001-p"


def digest(path: Path) -> str:
    import xxhash

    return xxhash.xxh3_128_hexdigest(path.read_bytes())


def nothing(_: dict) -> None:
    pass


def some_file(world: World) -> str:
    return world.chance.choice(("model.h5", "state.h5", "manifest.json"))


# Checkpoints. Each returns nothing; the victim is bad afterwards.


def file_is_a_link(world: World) -> None:
    name = some_file(world)
    (world.victim / name).unlink()
    (world.victim / name).symlink_to(world.outside / "checkpoint" / name)


def file_is_a_pipe(world: World) -> None:
    name = some_file(world)
    (world.victim / name).unlink()
    os.mkfifo(world.victim / name)


def file_is_a_device(world: World) -> None:
    name = some_file(world)
    (world.victim / name).unlink()
    try:
        os.mknod(world.victim / name, 0o20666, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        (world.victim / name).symlink_to("/dev/zero")


def file_is_a_folder(world: World) -> None:
    _into_a_folder(world.victim / world.chance.choice(("model.h5", "state.h5", "manifest.json")))


def verification_is_a_folder(world: World) -> None:
    _into_a_folder(world.victim / "verification.json")


def _into_a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def checkpoint_is_a_link(world: World) -> None:
    shutil.rmtree(world.victim)
    world.victim.symlink_to(world.outside / "checkpoint")


def names_that_lead_out(world: World) -> None:
    up = "../../../outside/checkpoint/model.h5"
    name = world.chance.choice((up, str(world.outside / "secret"), "a/../../x", "..", "/", "\0"))
    world.manifest(lambda content: content["files"][0].update(name=name))


def places_that_lead_out(world: World) -> None:
    place = "../../../outside/checkpoint/model.h5:/model_weights"

    def change(content):
        for each in content["tensors"]:
            each["places"] = [place + each["places"][0].partition(":/model_weights")[2]]

    world.manifest(change)


def model_file_that_leads_out(world: World) -> None:
    name = "../../../outside/checkpoint/model.h5"
    world.manifest(lambda content: content.update(model_file=name))


def manifest_of_a_gigabyte(world: World) -> None:
    os.truncate(world.victim / "manifest.json", 2**30)


def manifest_full_of_nothing(world: World) -> None:
    what = world.chance.choice(('"tensors":[', '"files":[', '"reasons":['))
    item = world.chance.choice(("{},", "1,", "[],", '"",', "null,"))
    text = '{"format":1,' + what + item * (3 * MB // len(item)) + "{}]}"
    (world.victim / "manifest.json").write_text(text)


def manifest_of_names(world: World) -> None:
    logs = ",".join(f'"{each:x}":[]' for each in range(60_000))
    (world.victim / "manifest.json").write_text('{"format":1,"moment":{"logs":{' + logs + "}}}")


def deep(world: World) -> str:
    opening = world.chance.choice(("[", '{"a":'))
    return opening * 100_000


def deep_manifest(world: World) -> None:
    (world.victim / "manifest.json").write_text('{"format":1,"files":' + deep(world))


def numbers_without_end(world: World) -> None:
    key = world.chance.choice(("size", "step", "shape", "format", "index"))
    number = world.chance.choice((10**4000, -1, 2**63, 10**400))

    def change(content):
        if key == "size":
            content["files"][0]["size"] = number
        elif key == "step":
            content["moment"]["step"] = number
        elif key == "format":
            content["format"] = number
        elif key == "shape":
            content["tensors"][0]["shape"] = [number, number]
        else:
            content["tensors"][0]["index"] = number

    world.manifest(change)


def names_that_terminals_obey(world: World) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\u202e\x9b31m\udcff".replace("\udcff", "")

    def change(content):
        content["reasons"] = [evil]
        content["files"].append({"name": evil, "size": 1, "digest": evil})
        content["tensors"][0]["name"] = evil
        content["moment"]["logs"] = {evil: 1.0}

    world.manifest(change)
    (world.victim / evil.replace("/", "")).touch()
    (world.run / "checkpoints" / evil).mkdir()
    (world.run / "checkpoints" / os.fsdecode(b"\xff\x1b[31m")).symlink_to(evil)


def folders_without_end(world: World) -> None:
    at = os.open(world.victim, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def a_thousand_files_too_many(world: World) -> None:
    for number in range(1_000):
        (world.victim / f"{number}").touch()


def hdf5(world: World, name: str = "model.h5") -> h5py.File:
    return h5py.File(world.victim / name, "r+")


def tensors_replaced(world: World, make: Callable[[h5py.Group, str, h5py.Dataset], None]) -> None:
    """Every tensor of the model file replaced by what `make` puts there."""
    with hdf5(world) as file:
        found: list[str] = []
        file["model_weights"].visititems(
            lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
        )
        for name in found:
            old = file["model_weights"][name]
            shape, dtype, value = old.shape, old.dtype, old[()]
            del file["model_weights"][name]
            make(file["model_weights"], name, (shape, dtype, value))
    world.manifest(nothing)


def external_links(world: World) -> None:
    there = str(world.outside / "checkpoint" / "model.h5")

    def make(group, name, _):
        group[name] = h5py.ExternalLink(there, f"/model_weights/{name}")

    tensors_replaced(world, make)


def soft_links(world: World) -> None:
    def make(group, name, old):
        group[name + "_real"] = old[2]
        group[name] = h5py.SoftLink(f"/model_weights/{name}_real")

    tensors_replaced(world, make)


def virtual_datasets(world: World) -> None:
    there = str(world.outside / "checkpoint" / "model.h5")

    def make(group, name, old):
        layout = h5py.VirtualLayout(old[0], old[1])
        layout[...] = h5py.VirtualSource(there, f"/model_weights/{name}", old[0])
        group.create_virtual_dataset(name, layout)

    tensors_replaced(world, make)


def external_storage(world: World) -> None:
    there = str(world.outside / "secret")

    def make(group, name, old):
        size = old[2].nbytes
        group.create_dataset(name, old[0], old[1], external=[(there, 0, size)])

    tensors_replaced(world, make)


HUGE = (2**20, 2**20)  # 4 TiB of float32


def shapes_that_claim_terabytes(world: World) -> None:
    shape = world.chance.choice((HUGE, (2**18, 2**17), (2**40,)))

    def make(group, name, old):
        chunks = world.chance.choice(((1,) * len(shape), (2**10,) * len(shape)))
        group.create_dataset(name, shape, old[1], chunks=chunks)

    tensors_replaced(world, make)

    def change(content):
        for each in content["tensors"]:
            if "model_weights" in each["places"][0]:
                each["shape"] = list(shape)

    world.manifest(change)


def compressed_zeros(world: World) -> None:
    """Chunks that inflate to a million times what their datasets have."""
    import zlib

    bomb = zlib.compress(bytes(24 * MB), 9)  # HDF5 writes no longer chunk of so few numbers

    def make(group, name, old):
        shape = old[0] or (1,)
        made = group.create_dataset(name, shape, old[1], chunks=shape, compression="gzip")
        made.id.write_direct_chunk((0,) * len(shape), bomb)

    tensors_replaced(world, make)


def deep_configuration(world: World) -> None:
    name = world.chance.choice(("model_config", "training_config"))
    with hdf5(world) as file:
        file.attrs[name] = ""
        del file.attrs[name]
        file.attrs.create(name, np.bytes_(deep(world)[:60_000]))
    world.manifest(nothing)


def configuration_of_something_else(world: World) -> None:
    what = world.chance.choice(
        ("[]", "{}", "null", "1", '{"class_name": "deserialize", "config": []}', '"a"')
    )
    with hdf5(world) as file:
        file.attrs["model_config"] = what
    world.manifest(nothing)


def state_of_something_else(world: World) -> None:
    kinds = ("[]", "{}", "null", '{"data": 1}', "[" * 100_000, '{"epochs": ' + "9" * 5000 + "}")
    text = np.frombuffer(world.chance.choice(kinds).encode(), np.uint8)
    with hdf5(world, "state.h5") as file:
        del file["training_state"]
        file["training_state"] = text
    world.manifest(nothing)


def rubbish_for_hdf5(world: World) -> None:
    content = b"\x89HDF\r\n\x1a\n" + world.chance.randbytes(5_000)
    (world.victim / "model.h5").write_bytes(content)
    world.manifest(nothing)


CHECKPOINTS = (
    file_is_a_link,
    file_is_a_pipe,
    file_is_a_device,
    file_is_a_folder,
    verification_is_a_folder,
    checkpoint_is_a_link,
    names_that_lead_out,
    places_that_lead_out,
    model_file_that_leads_out,
    manifest_of_a_gigabyte,
    manifest_full_of_nothing,
    manifest_of_names,
    deep_manifest,
    numbers_without_end,
    names_that_terminals_obey,
    folders_without_end,
    a_thousand_files_too_many,
    external_links,
    soft_links,
    virtual_datasets,
    external_storage,
    shapes_that_claim_terabytes,
    compressed_zeros,
    deep_configuration,
    configuration_of_something_else,
    state_of_something_else,
    rubbish_for_hdf5,
)
# Whole to the depth `structure`: only a training sees the harm.
ONLY_FOR_RESUME = (state_of_something_else,)


# Runs. Each returns whether the newest checkpoint is still good.


def link_to_elsewhere(world: World) -> bool:
    link = world.run / world.chance.choice(("latest", "best"))
    link.unlink(missing_ok=True)
    link.symlink_to(world.chance.choice(("../outside/checkpoint", str(world.outside))))
    return True


def checkpoints_are_elsewhere(world: World) -> bool:
    (world.run / "checkpoints").rename(world.run / "moved")
    (world.outside / "checkpoints").mkdir()
    (world.run / "checkpoints").symlink_to(world.outside / "checkpoints")
    return False


def quarantine_is_elsewhere(world: World) -> bool:
    shutil.rmtree(world.run / "quarantine", ignore_errors=True)
    (world.run / "quarantine").symlink_to(world.outside)
    return True


def our_own_files_are_links(world: World) -> bool:
    for name in (".lock", ".lock.holder", "events.jsonl"):
        (world.run / name).unlink(missing_ok=True)
        (world.run / name).symlink_to(world.outside / "secret")
    return False


def our_own_files_are_pipes(world: World) -> bool:
    for name in (".lock.holder", "events.jsonl", "savekit.json"):
        (world.run / name).unlink(missing_ok=True)
        os.mkfifo(world.run / name)
    return False


def verification_of_harm(world: World) -> bool:
    path = world.victim / "verification.json"
    path.unlink(missing_ok=True)
    kind = world.chance.choice(("deep", "pipe", "huge", "rubbish"))
    if kind == "deep":
        path.write_text(deep(world))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 2**30)
    else:
        path.write_bytes(world.chance.randbytes(1_000))
    return kind != "pipe"


def run_information_of_harm(world: World) -> bool:
    text = world.chance.choice((deep(world), "[]", '{"format": ' + "9" * 4_000 + "}", "\xff"))
    (world.run / "savekit.json").write_text(text)
    return True


def log_of_harm(world: World) -> bool:
    text = world.chance.choice(('{"a":' * 100_000 + "\n", "[]\n[]\n", "\0" * MB, "\n\n"))
    (world.run / "events.jsonl").write_text(text)
    return True


RUNS = (
    link_to_elsewhere,
    checkpoints_are_elsewhere,
    quarantine_is_elsewhere,
    our_own_files_are_links,
    our_own_files_are_pipes,
    verification_of_harm,
    run_information_of_harm,
    log_of_harm,
)


# Files, by path: none of them makes a model.


def archive(world: World, *members: tuple[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    path = world.home / "m.keras"
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def model_in_archive(world: World, change: Callable[[h5py.File], None]) -> Path:
    """The good model as stock Keras saves it, but for its weights."""
    inside = io.BytesIO()
    with zipfile.ZipFile(world.outside.parent / "good.keras") as good:
        config, metadata = good.read("config.json"), good.read("metadata.json")
        inside.write(good.read("model.weights.h5"))
    with h5py.File(inside, "r+") as file:
        change(file)
    members = ("config.json", config), ("metadata.json", metadata)
    compression = world.chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    return archive(
        world, *members, ("model.weights.h5", inside.getvalue()), compression=compression
    )


def archive_with_external_links(world: World) -> Path:
    def change(file):
        del file["layers"]
        file["layers"] = h5py.ExternalLink(str(world.outside / "checkpoint" / "model.h5"), "/")

    return model_in_archive(world, change)


def archive_with_external_storage(world: World) -> Path:
    def change(file):
        there = str(world.outside / "secret")
        for layer in file["layers"].values():
            for name in list(layer["vars"]):
                shape, dtype = layer["vars"][name].shape, layer["vars"][name].dtype
                del layer["vars"][name]
                size = int(np.prod(shape)) * dtype.itemsize
                layer["vars"].create_dataset(name, shape, dtype, external=[(there, 0, size)])

    return model_in_archive(world, change)


def archive_that_claims_terabytes(world: World) -> Path:
    return model_in_archive(world, lambda f: f.create_dataset("x", HUGE, "f4", chunks=(1, 1)))


def archive_of_zeros(world: World) -> Path:
    content = ("model.weights.h5", bytes(300 * MB))
    return archive(world, content, compression=zipfile.ZIP_DEFLATED)


def archive_of_many_zeros(world: World) -> Path:
    many = [(f"assets/{each}", bytes(40 * MB)) for each in range(8)]
    return archive(world, *many, compression=zipfile.ZIP_DEFLATED)


def archive_in_archive(world: World) -> Path:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.weights.h5", bytes(100 * MB))
    return archive(world, ("model.weights.h5", inner.getvalue()), ("config.json", b"{}"))


def archive_that_leads_out(world: World) -> Path:
    name = world.chance.choice(("../outside/secret", "/tmp/savekit-evil", "a/../../x", "..\\x"))
    return archive(world, (name, b"x"), ("config.json", b"{}"))


def archive_with_deep_configuration(world: World) -> Path:
    return archive(world, ("config.json", deep(world).encode()), ("model.weights.h5", b""))


def archive_cut(world: World) -> Path:
    path = model_in_archive(world, nothing)
    os.truncate(path, world.chance.randrange(path.stat().st_size))
    return path


def h5_file(world: World, change: Callable[[h5py.File], None]) -> Path:
    path = world.home / world.chance.choice(("m.h5", "m.weights.h5"))
    shutil.copy(world.outside / "checkpoint" / "model.h5", path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def h5_with_external_link(world: World) -> Path:
    def change(file):
        file["x"] = h5py.ExternalLink(str(world.outside / "checkpoint" / "model.h5"), "/")

    return h5_file(world, change)


def h5_that_claims_terabytes(world: World) -> Path:
    return h5_file(world, lambda file: file.create_dataset("x", HUGE, "f4", chunks=(1, 1)))


def h5_that_claims_gigabytes_many_times(world: World) -> Path:
    def change(file):
        for number in range(40):
            made = file.create_dataset(
                f"x{number}", (8 * MB,), "u1", chunks=(8 * MB,), compression=9
            )
            made[...] = 0

    return h5_file(world, change)


def h5_with_a_hostile_manifest(world: World) -> Path:
    def change(file):
        text = world.chance.choice((deep(world), "{}", '{"format":1}', "\0"))
        file["savekit_manifest"] = np.frombuffer(text.encode(), np.uint8)

    return h5_file(world, change)


def pipe_for_a_model(world: World) -> Path:
    path = world.home / world.chance.choice(("m.h5", "m.keras", "m.weights.h5"))
    os.mkfifo(path)
    return path


def architecture_is_a_pipe(world: World) -> Path:
    import formats_models

    import keras_savekit as sk

    path = world.home / "m.weights.h5"
    sk.save_weights(formats_models.small(), path, verify="bytes")
    (world.home / "m.json").unlink()
    os.mkfifo(world.home / "m.json")
    return path


FILES = (
    archive_with_external_links,
    archive_with_external_storage,
    archive_that_claims_terabytes,
    archive_of_zeros,
    archive_of_many_zeros,
    archive_in_archive,
    archive_that_leads_out,
    archive_with_deep_configuration,
    archive_cut,
    h5_with_external_link,
    h5_that_claims_terabytes,
    h5_that_claims_gigabytes_many_times,
    h5_with_a_hostile_manifest,
    pipe_for_a_model,
    architecture_is_a_pipe,
)


# Policies: none of them can be used.

GOOD_PLAN = "plans:\n  - name: p\n    when: every 1 steps\n    keep: last "
TEXTS: dict[str, str] = {
    "laughs": "a: &a [x, x]\n"
    + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
    ),
    "deep lists": "[" * 100_000,
    "deep mappings": "{a: " * 100_000,
    "deep blocks": "- " * 100_000,
    "many values": "plans: [" + "a," * 60_000 + "]",
    "a number in hex": GOOD_PLAN + "0x" + "F" * 5_000,
    "a number in base 60": GOOD_PLAN + "1:" * 100_000 + "1",
    "a number of many digits": GOOD_PLAN + "9" * 100_000,
    "a fraction in base 60": GOOD_PLAN + "1:" * 2_000 + "1.5",
    "a tag": "!!python/object/apply:os.system [id]",
    "control characters": '"\\e[2J\\a": "\\e]0;x\\a"\n',
    "half a character": 'plans: "\\ud800"\n',
    "no characters": "\0\x1b[2J",
    "one word": "a" * 200_000,
    "a name that leads out": GOOD_PLAN.replace("name: p", "name: ../../outside/x") + "1",
    "itself": "include: policy.yaml\n" + GOOD_PLAN + "1",
    "a circle": "include: [other.yaml, other.yaml]\n" + GOOD_PLAN + "1",
    "a pipe": "include: pipe.yaml\n" + GOOD_PLAN + "1",
    "a device": "include: /dev/zero\n" + GOOD_PLAN + "1",
    "brackets": GOOD_PLAN.replace("every 1 steps", '"loss < ' + "(" * 50_000 + '"') + "1",
}


# What is asked of each.


def asked_of_a_run(
    world: World, good: bool, code: set[int] | None = None
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Entry points, and what is wrong with what each does; "" where nothing is.

    good: whether a resume takes the newest checkpoint.
    code: what `savekit verify` ends with.
    """
    from keras_savekit.resume.record import select_and_record
    from keras_savekit.store.run import RunDirectory

    run = str(world.run)
    for arguments in (("list", run), ("list", "--json", run), ("resume-plan", run)):
        yield arguments[0], lambda arguments=arguments: command(*arguments)
    yield "verify", lambda: command("verify", run, code=code)
    yield "the log", lambda: refused_or(RunDirectory(world.run).events.read)

    def resumed():
        found = select_and_record([unlocked(world.run)], 3.0).content
        expected = NEWEST if good else BEFORE
        name = found.checkpoint.name if found else "nothing"
        return "" if name == expected else f"resumed from {name}, not from {expected}"

    yield "resume.select", resumed


def asked_of_a_checkpoint(world: World, kind: Callable) -> Iterator[tuple[str, Callable[[], str]]]:
    import keras_savekit as sk

    bad = kind not in ONLY_FOR_RESUME
    # What is too many, and what only a training asks for, does not keep a model from being made.
    beside = (folders_without_end, a_thousand_files_too_many, verification_is_a_folder)
    allowed = (*beside, *ONLY_FOR_RESUME)
    law = refused_or if kind in allowed else refused
    yield "load_model", lambda: law(lambda: sk.load_model(world.victim))
    law_of_weights = refused if bad and kind not in allowed else refused_or
    yield (
        "load_weights",
        lambda: law_of_weights(lambda: sk.load_weights(live_model(), world.victim)),
    )
    code = {1, 2} if bad else None
    yield "verify one", lambda: command("verify", str(world.victim), code=code)
    yield from asked_of_a_run(world, False, code)


def asked_of_a_file(path: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    import keras_savekit as sk

    yield "load_model", lambda: refused(sk.load_model, path)
    model = live_model()
    yield "load_weights", lambda: refused_or(lambda: sk.load_weights(model, path))


def asked_of_a_policy(path: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    import keras_savekit as sk

    yield "load_policy", lambda: refused(sk.load_policy, path)
    yield "check", lambda: command("check", str(path), code={2})


@cache
def live_model():
    import formats_models

    return formats_models.small()


def refused(call: Callable, *arguments: object) -> str:
    """It must raise an error of ours, whose words no terminal obeys."""
    from keras_savekit.errors import SavekitError

    try:
        call(*arguments)
    except SavekitError as error:
        return obeyed(str(error))
    return "was not refused"


def refused_or(call: Callable[[], object]) -> str:
    from keras_savekit.errors import SavekitError

    with contextlib.suppress(SavekitError):
        call()
    return ""


def command(*arguments: str, code: set[int] | None = None) -> str:
    """`savekit` with these arguments; no exception leaves it."""
    from keras_savekit.cli.main import run as savekit

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        ended = savekit(arguments)
    if ended not in (code or {0, 1, 2}):
        return f"ended with {ended}"
    return obeyed(shown.getvalue())


def obeyed(text: str) -> str:
    bad = sorted({each for each in text if not (each.isprintable() or each == "\n")})
    return f"shows {bad}" if bad else ""


# One try, in the process that is watched.


def cases() -> list[tuple[str, Callable[[World], Iterator[tuple[str, Callable[[], str]]]]]]:
    def checkpoint(kind):
        def ask(world):
            kind(world)
            return asked_of_a_checkpoint(world, kind)

        return kind.__name__, ask

    def whole(kind):
        return kind.__name__, lambda world: asked_of_a_broken_run(world, kind)

    def file(kind):
        return kind.__name__, lambda world: asked_of_a_file(kind(world))

    def policy(name):
        return f"policy of {name}", lambda world: asked_of_a_policy(policy_file(world, name))

    return [
        *map(checkpoint, CHECKPOINTS),
        *map(whole, RUNS),
        *map(file, FILES),
        *map(policy, TEXTS),
    ]


def asked_of_a_broken_run(world: World, kind: Callable) -> Iterator[tuple[str, Callable[[], str]]]:
    import keras_savekit as sk

    good = kind(world)
    for name, ask in asked_of_a_run(world, good):
        # Where the run itself is in the way, an error of ours is as good as going on.
        yield name, ask if name != "resume.select" else lambda ask=ask: gone_on(ask, good)
    for link in ("latest", "best"):
        path = world.run / link
        if path.is_symlink() and "outside" in str(path.readlink()):
            yield link, lambda path=path: refused(sk.load_model, path)
            yield f"verify {link}", lambda path=path: command("verify", str(path), code={1, 2})


def gone_on(ask: Callable[[], str], good: bool) -> str:
    from keras_savekit.errors import SavekitError

    try:
        return ask() if good else ask() and ""
    except SavekitError as error:
        return obeyed(str(error))


def policy_file(world: World, name: str) -> Path:
    path = world.home / "policy.yaml"
    path.write_bytes(TEXTS[name].encode("utf-8", "surrogatepass"))
    (world.home / "other.yaml").write_text("include: policy.yaml\n")
    os.mkfifo(world.home / "pipe.yaml")
    return path


def fresh(home: Path, master: Path, chance: random.Random) -> World:
    subprocess.run(["rm", "-rf", home], check=True)  # folders deeper than Python's stack
    shutil.copytree(master, home, symlinks=True)
    for path in [home / "outside", *(home / "outside").rglob("*")]:
        os.utime(path, ns=(10**18, 2 * 10**18))  # read after this, the first would change
    return World(home, home / "outside", chance)


def traces(outside: Path) -> dict[str, tuple[int, ...]]:
    """Everything that shows whether someone was there."""
    found = {}
    for path in (outside, *sorted(outside.rglob("*"))):
        state = path.lstat()
        read = state.st_atime_ns if path.is_file() else 0  # our own look lists folders
        found[str(path)] = (state.st_mode, state.st_size, state.st_mtime_ns, read)
    return found


class RequestMonitor:
    """Notes what Python does in a directory while it looks."""

    EVENTS = (
        "open",
        "os.listdir",
        "os.scandir",
        "os.rename",
        "os.remove",
        "os.mkdir",
        "os.truncate",
    )

    def __init__(self) -> None:
        self.forbidden = ""
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if not self.forbidden or event not in self.EVENTS:
            return
        for each in arguments[:2]:
            if isinstance(each, (str, bytes)) and self.forbidden in os.fsdecode(each):
                self.seen.append(f"{event} {os.fsdecode(each)}")


def build_master(master: Path) -> None:
    import formats_models

    from keras_savekit.base.moment import Moment
    from keras_savekit.formats import checkpoint
    from keras_savekit.formats.checkpoint import Purpose
    from keras_savekit.formats.registry import FORMATS
    from keras_savekit.model.capture import Capture
    from keras_savekit.model.live_variables import build_optimizer
    from keras_savekit.model.structure import LiveModel
    from keras_savekit.verify.depths import verify_files
    from torture.corruption import STATE

    run = prepared(master / "run")
    live = formats_models.train(formats_models.small())
    build_optimizer(live)
    purpose = Purpose("run", "p", ("asked",), 0.0, FORMATS["h5"])
    for step, name in ((1, BEFORE), (2, NEWEST)):
        scratch = run.new_scratch(name)
        state = Capture(LiveModel(live))(Moment(step=step), STATE, {})
        checkpoint.write(scratch, state, purpose)
        run.publish(scratch, name)
        run.record(name, verify_files(run.checkpoints_path / name, "structure", 1.0))
    run.write_run_info({})
    run.link("latest", NEWEST)
    (master / "outside").mkdir()
    shutil.copytree(run.checkpoints_path / NEWEST, master / "outside" / "checkpoint")
    (master / "outside" / "secret").write_bytes(bytes(8192))
    live.save(master / "good.keras")


def shuffled(seed: int) -> list:
    """All cases, in an order of which a small dose is a fair part."""
    every = cases()
    random.Random(seed).shuffle(every)
    return every


def child(seed: int, first: int, count: int, scratch: Path, answers: int) -> None:
    """Try after try, a line of JSON for each into the pipe `answers`."""
    master, home = scratch / "master", scratch / "home"
    if not master.exists():
        build_master(master)
    live_model()
    every, watch = shuffled(seed), RequestMonitor()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    for number in range(first, first + count):
        signal.alarm(int(10 * PATIENCE))  # ends the process, wherever it hangs
        name, ask = every[number % len(every)]
        world = fresh(home, master, random.Random(f"{seed}-{number}"))
        line = {"number": number, "name": name, "failures": tried(world, ask, watch)}
        os.write(answers, json.dumps(line).encode() + b"\n")


def tried(world: World, ask: Callable, watch: RequestMonitor) -> list[str]:
    failures = []
    asked = ask(world)
    first = next(asked)  # it is built by now
    before = traces(world.outside)
    for entry, call in (first, *asked):
        began = time.monotonic()
        watch.forbidden = str(world.outside)
        try:
            wrong = call()
        except Exception as error:  # noqa: BLE001 - any exception that is none of ours is the finding
            wrong = f"{type(error).__name__}: {error}"
        watch.forbidden = ""
        if wrong:
            failures.append(f"{entry}: {wrong[:300]}")
        if time.monotonic() - began > PATIENCE:
            failures.append(f"{entry}: took {time.monotonic() - began:.0f} s")
    failures += [f"was outside: {each}" for each in watch.seen]
    watch.seen.clear()
    failures += [
        f"changed or read {p}" for p, was in before.items() if traces(world.outside).get(p) != was
    ]
    if len(traces(world.outside)) != len(before):
        failures.append("left something outside")
    return failures


FULL = 10 * len((*CHECKPOINTS, *RUNS, *FILES, *TEXTS))


def run(seed: int, count: int, scratch: Path) -> list[Score]:
    failures: list[str] = []
    done = 0
    while done < count:
        lines, ending = watched(seed, done, count - done, scratch)
        done += len(lines)
        for each in lines:
            failures += [f"{each['number']} {each['name']}: {one}" for one in each["failures"]][:1]
        if ending:
            failures.append(f"{done} {shuffled(seed)[done % len(cases())][0]}: {ending}")
            done += 1
    return [
        Score("hostile input raises one clear error and changes nothing", count, tuple(failures))
    ]


def watched(seed: int, first: int, count: int, scratch: Path) -> tuple[list[dict], str]:
    """What a process that tries says, and how it ended if that was before its time."""
    reading, writing = os.pipe()
    arguments = [str(each) for each in (seed, first, count, scratch, writing)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", "torture.hostile", *arguments],
            pass_fds=(writing,),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)},
        ) as process,
    ):
        os.close(writing)
        with os.fdopen(reading) as answers:
            lines = [json.loads(each) for each in answers]
        code = process.wait()
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().splitlines()[-3:]
    return lines, f"the process ended with {code}: {'; '.join(last)}" if code else ""


if __name__ == "__main__":
    import conftest  # noqa: F401 - quiet, and on the CPU

    child(*(int(each) for each in sys.argv[1:4]), Path(sys.argv[4]), int(sys.argv[5]))
