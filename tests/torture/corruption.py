"""Rung: damage of every kind to checkpoints of every format, found before anything is made of it.

At depth `bytes`: a flipped bit, a cut, a zeroed block in any file; files swapped
between checkpoints or with all of another's; one missing, one too many; a manifest
that was edited, whether or not its seal was made anew, where the edit speaks of
files (names, sizes, digests). At depth `structure`: edits with a new seal that
speak of tensors (shape, dtype, digest, place, one tensor twice, a model file that
is none). A forged `verification.json` hides nothing, and costs nothing unless it
claims a finding of the deeper depths, which is believed: then the checkpoint is
set aside, whole.

What nobody can find without a signature is an edit with a new seal that
contradicts nothing in the files: metrics, reasons, times, versions, the run's id,
the entries of two tensors of one shape exchanged, or everything replaced by
something whole. `signing:` is for that.

Nothing here takes long but HDF5 itself might: a damaged file whose manifest was
forged to fit it gets as far as that library, in which one bit can make an endless
loop that no process can end for itself. Accidents never get there, since no file
with a wrong digest is opened.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import formats_models
import training_builders
import xxhash
from test_store_builders import prepared, unlocked

from keras_savekit.base.moment import Moment
from keras_savekit.formats import checkpoint
from keras_savekit.formats.checkpoint import Purpose
from keras_savekit.formats.registry import FORMATS
from keras_savekit.model.capture import Capture
from keras_savekit.model.live_variables import build_optimizer
from keras_savekit.model.structure import LiveModel
from keras_savekit.resume.record import select_and_record
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.store.manifest_json import to_json
from keras_savekit.store.naming import CheckpointName
from keras_savekit.store.run import RunDirectory
from keras_savekit.store.run_writer import RunWriter
from keras_savekit.verify.depths import verify_files
from torture.score import Score

FULL = 10_000
PER_HEALTHY = 10  # tries of damage for each try of a healthy one
PER_FIT = 1_000
STEPS = (1, 2, 3)
FORMS = (
    ("model", "h5", None),
    ("model", "h5", "gzip"),
    ("model", "keras", None),
    ("weights", "weights.h5", None),
    ("weights", "weights.h5", "lzf"),
)
STATE = {
    "epoch": 0,
    "batch": 0,
    "step": 0,
    "seconds": 0.0,
    "memory": {},
    "history": [],
    "data": None,
    "consistent": True,
    "randomness": {},
    "callbacks": {},
    "epochs": 1,
    "length": None,
    "stopped": False,
    "ended": False,
    "optimizer": None,
}


@dataclass(frozen=True)
class World:
    """A run with the checkpoints of `STEPS`, to be damaged, and chance."""

    run: RunWriter
    chance: random.Random

    def place(self, step: int) -> Path:
        return self.run.checkpoints_path / name(step)

    def files(self, step: int) -> list[Path]:
        """Without `verification.json`, which promises nothing."""
        found = sorted(self.place(step).iterdir())
        return [each for each in found if each.name != "verification.json"]


def name(step: int) -> str:
    return str(CheckpointName(step, "p"))


NEWEST = STEPS[-1]
BEFORE = STEPS[-2]


# Kinds of damage: what each did, and which checkpoints it left whole.

Damage = Callable[[World], tuple[str, set[int]]]
ONLY_NEWEST = set(STEPS) - {NEWEST}


def flipped(world: World) -> tuple[str, set[int]]:
    path = world.chance.choice(world.files(NEWEST))
    return flip(world, path), ONLY_NEWEST


def flip(world: World, path: Path) -> str:
    content = bytearray(path.read_bytes())
    spot, bit = world.chance.randrange(len(content)), world.chance.randrange(8)
    content[spot] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {spot} in {path.name} flipped"


def cut(world: World) -> tuple[str, set[int]]:
    path = world.chance.choice(world.files(NEWEST))
    size = world.chance.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"{path.name} cut to {size} bytes", ONLY_NEWEST


def zeroed(world: World) -> tuple[str, set[int]]:
    path = world.chance.choice(world.files(NEWEST))
    content = bytearray(path.read_bytes())
    length = world.chance.choice((1, 16, 512, 4096))
    spot = world.chance.choice([at for at, byte in enumerate(content) if byte][:: max(1, length)])
    start = spot - spot % length
    end = min(start + length, len(content))
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    return f"bytes {start} to {end} of {path.name} zeroed", ONLY_NEWEST


def swapped(world: World) -> tuple[str, set[int]]:
    pairs = [
        (mine, theirs)
        for mine in world.files(NEWEST)
        if (theirs := world.place(BEFORE) / mine.name).read_bytes() != mine.read_bytes()
    ]
    mine, theirs = world.chance.choice(pairs)
    exchange(mine, theirs)
    return f"{mine.name} exchanged with the one before", ONLY_NEWEST - {BEFORE}


def all_swapped(world: World) -> tuple[str, set[int]]:
    exchange(world.place(NEWEST), world.place(BEFORE))
    return "everything exchanged with the one before", ONLY_NEWEST - {BEFORE}


def all_but_the_manifest_swapped(world: World) -> tuple[str, set[int]]:
    for mine in world.files(NEWEST):
        if mine.name != "manifest.json":
            exchange(mine, world.place(BEFORE) / mine.name)
    return "everything but the manifest exchanged with the one before", ONLY_NEWEST - {BEFORE}


def exchange(one: Path, other: Path) -> None:
    aside = one.parent / "exchanged"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def missing(world: World) -> tuple[str, set[int]]:
    path = world.chance.choice(world.files(NEWEST))
    path.unlink()
    return f"{path.name} missing", ONLY_NEWEST


def extra(world: World) -> tuple[str, set[int]]:
    known = world.chance.choice(world.files(NEWEST)).name
    path = world.place(NEWEST) / world.chance.choice((f"{known}~", ".hidden", "verification.json~"))
    if world.chance.random() < 0.5:
        path.mkdir()
    else:
        path.touch()
    return f"{path.name} too many", ONLY_NEWEST


def edited(world: World) -> tuple[str, set[int]]:
    """Any value of the manifest, its seal left as it was."""
    path = world.place(NEWEST) / "manifest.json"
    text = path.read_text()
    spot = world.chance.choice([at for at, each in enumerate(text) if each.isalnum()])
    other = world.chance.choice([each for each in "0123456789abc" if each != text[spot]])
    path.write_text(text[:spot] + other + text[spot + 1 :])
    return f"character {spot} of the manifest is {other!r}", ONLY_NEWEST


def resealed(world: World) -> tuple[str, set[int]]:
    """A manifest that contradicts the files, under a seal made anew."""
    path = world.place(NEWEST) / "manifest.json"
    manifest = json.loads(path.read_text())
    edit = world.chance.choice(EDITS)
    edit(manifest, world.chance)
    path.write_bytes(sealed(manifest))
    return f"manifest edited ({edit.__name__}) and sealed anew", ONLY_NEWEST


def sealed(manifest: dict) -> bytes:
    """As the package would have written it."""
    manifest.pop("seal", None)
    body = json.dumps(manifest, indent=2).removesuffix("\n}").encode()
    return body + b',\n  "seal": "%s"\n}\n' % xxhash.xxh3_128_hexdigest(body).encode()


def any_file(manifest, chance):
    return chance.choice(manifest["files"])


def any_tensor(manifest, chance):
    return chance.choice(manifest["tensors"])


def other_digest(entry, chance):
    entry["digest"] = f"{chance.getrandbits(128):032x}"


def size_of_a_file(manifest, chance):
    any_file(manifest, chance)["size"] += chance.choice((-1, 1, 2**40))


def digest_of_a_file(manifest, chance):
    other_digest(any_file(manifest, chance), chance)


def name_of_a_file(manifest, chance):
    any_file(manifest, chance)["name"] = chance.choice(("other.h5", "../a", "/etc/hostname", ""))


def file_left_out(manifest, chance):
    manifest["files"].remove(any_file(manifest, chance))


def file_twice(manifest, chance):
    manifest["files"].append(any_file(manifest, chance))


def digest_of_a_tensor(manifest, chance):
    other_digest(any_tensor(manifest, chance), chance)


def digests_exchanged(manifest, chance):
    tensors = manifest["tensors"]
    digests = {each["digest"] for each in tensors}
    one = any_tensor(manifest, chance)
    one["digest"] = chance.choice(sorted(digests - {one["digest"]}))


def shape_of_a_tensor(manifest, chance):
    shape = any_tensor(manifest, chance)["shape"]
    shape[:] = chance.choice(([*shape, 1], [2**31, 2**31], [each + 1 for each in shape] or [1]))


def dtype_of_a_tensor(manifest, chance):
    entry = any_tensor(manifest, chance)
    entry["dtype"] = chance.choice(
        [e for e in ("int8", "complex128", "O", "?") if e != entry["dtype"]]
    )


def place_of_a_tensor(manifest, chance):
    places = chance.choice(("state.h5:/none", "model.h5:/", "../a.h5:/x", "x", "", ":/"))
    any_tensor(manifest, chance)["places"] = [places]


def tensor_without_a_place(manifest, chance):
    any_tensor(manifest, chance)["places"] = []


def tensor_twice(manifest, chance):
    manifest["tensors"].append(any_tensor(manifest, chance))


def model_file(manifest, chance):
    manifest["model_file"] = chance.choice(("other.h5", "../a.h5", "", "/etc/hostname"))


def step(manifest, chance):
    manifest["moment"]["step"] += chance.choice((1, -1, 10**9))


def plan(manifest, chance):
    manifest["plan"] = chance.choice(("other", "", "../p", "p\n"))


def not_a_manifest(manifest, chance):
    free = {"versions", "format", "created", "seal"}  # may be so, or are made anew
    key = chance.choice(sorted(set(manifest) - free))
    manifest[key] = chance.choice((None, {"a": []}, -1.5, [[[]]]))


def other_format(manifest, chance):
    manifest["format"] = chance.choice((0, 2, 10**30))


EDITS = (
    size_of_a_file,
    digest_of_a_file,
    name_of_a_file,
    file_left_out,
    file_twice,
    digest_of_a_tensor,
    digests_exchanged,
    shape_of_a_tensor,
    dtype_of_a_tensor,
    place_of_a_tensor,
    tensor_without_a_place,
    tensor_twice,
    model_file,
    step,
    plan,
    not_a_manifest,
    other_format,
)


def said_to_be_good(world: World) -> tuple[str, set[int]]:
    """Damaged, and the verification says that it was found good, as deeply as can be."""
    write_verification(world, Verification(world.chance.choice(("structure", "load")), 1.0))
    damage = world.chance.choice((flipped, cut, zeroed, missing, extra, resealed))
    what, whole = damage(world)
    return f"{what}, and said to be good", whole


FORGED = Verification("structure", 1.0, (Finding("digest", "state.h5", "forged"),))


def forged_over_a_good_one(world: World) -> tuple[str, set[int]]:
    """Nothing but `verification.json` is wrong, and no training is lost by that."""
    path = world.place(NEWEST) / "verification.json"
    what = world.chance.choice(("bad", "garbage", "of another", "cut", "flipped"))
    if what == "bad":
        write_verification(world, FORGED)
    elif what == "garbage":
        path.write_bytes(world.chance.randbytes(world.chance.randrange(300)))
    elif what == "of another":
        path.write_bytes((world.place(BEFORE) / "verification.json").read_bytes())
    elif what == "cut":
        os.truncate(path, world.chance.randrange(path.stat().st_size))
    else:
        flip(world, path)
    return f"its verification forged: {what}", set(STEPS)


def write_verification(world: World, verification: Verification) -> None:
    (world.place(NEWEST) / "verification.json").write_bytes(to_json(verification))


DAMAGES: tuple[Damage, ...] = (
    flipped,
    cut,
    zeroed,
    swapped,
    all_swapped,
    all_but_the_manifest_swapped,
    missing,
    extra,
    edited,
    resealed,
    said_to_be_good,
)


# What became of it.


def suspects(run: RunDirectory) -> set[str]:
    """Everything among the checkpoints that is found not to be whole."""
    scan = run.scan()
    found = {each for each, _ in scan.damaged}
    for each in scan.checkpoints:
        if not verify_files(each.path, "structure", 2.0).good:
            found.add(each.name)
    return found


def wrong(run: RunDirectory, whole: set[int]) -> str:
    """How what is found differs from what is so; empty if it does not."""
    expected = {name(each) for each in set(STEPS) - whole}
    found = suspects(run)
    return f"found {sorted(found)}, expected {sorted(expected)}" if found != expected else ""


def resumed_wrongly(run: RunWriter, whole: set[int]) -> str:
    """The same for what a resume goes on from, sets aside and leaves."""
    found = select_and_record([run], 3.0).content
    chosen = found.checkpoint.name if found else None
    if chosen != name(max(whole)):
        return f"resumed from {chosen}, not from {name(max(whole))}"
    # What a resume did not look at, it does not touch.
    left = {each.name for each in run.checkpoints()}
    lost = {name(each) for each in whole} - left
    return f"{sorted(lost)} is gone" if lost else ""


def run(seed: int, count: int, scratch: Path) -> list[Score]:
    found, fallen_back, accused, forged, trained = [], [], [], [], []
    healthy = max(1, count // PER_HEALTHY)
    for number in range(count):
        world, what, whole, failure = tried(seed, number, scratch, DAMAGES)
        if failure:
            found.append(f"{what}: {failure}")
        if failure := resumed_wrongly(world.run, whole):
            fallen_back.append(f"{what}: {failure}")
    for number in range(count, count + healthy):
        world, what, _, _ = tried(seed, number, scratch, (lambda _: ("healthy", set(STEPS)),))
        if failure := wrong(world.run, set(STEPS)):
            accused.append(f"{what}: {failure}")
        world, what, whole, failure = tried(seed, number, scratch, (forged_over_a_good_one,))
        if failure := failure or resumed_wrongly(world.run, whole):
            forged.append(f"{what}: {failure}")
    fits = count // PER_FIT + 1
    for number in range(fits):
        trained += trained_wrongly(seed, number, scratch)
    return [
        Score(
            "verification at depth `bytes` or `structure` finds a damaged checkpoint",
            count,
            tuple(found),
        ),
        Score("a resume takes the newest complete checkpoint", count, tuple(fallen_back)),
        Score("verification reports no damage in a healthy checkpoint", healthy, tuple(accused)),
        Score("a forged `verification.json` costs no good checkpoint", healthy, tuple(forged)),
        Score(
            "a `fit` resumes bit for bit from the newest complete checkpoint", fits, tuple(trained)
        ),
    ]


def tried(
    seed: int, number: int, scratch: Path, damages: tuple[Damage, ...]
) -> tuple[World, str, set[int], str]:
    """One try: the world after it, what was done, what is whole, and what was found wrongly."""
    form = FORMS[number % len(FORMS)]
    chance = random.Random(f"{seed}-{number}")
    world = World(fresh(master(scratch, form), scratch / "run"), chance)
    what, whole = damages[number // len(FORMS) % len(damages)](world)
    words = "+".join(str(each) for each in form[1:] if each)
    return world, f"try {number}, {words}: {what}", whole, wrong(world.run, whole)


def fresh(source: Path, target: Path) -> RunWriter:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return unlocked(target)


@cache
def master(scratch: Path, form: tuple[str, str, str | None]) -> Path:
    """A run of healthy checkpoints, verified, whose files have the same sizes."""
    _, kind, compression = form
    run = prepared(scratch / f"master-{kind}-{compression}")
    # Only tensors of 64 KiB are compressed.
    live = formats_models.small() if compression is None else wide()
    build_optimizer(live)
    for each in STEPS:
        formats_models.train(live, steps=1, seed=each)
        snapshot = Capture(LiveModel(live))(Moment(step=each), STATE, {})
        purpose = Purpose("run", "p", ("asked",), 0.0, FORMATS[kind], compression)
        directory = run.new_scratch(name(each))
        checkpoint.write(directory, snapshot, purpose)
        run.publish(directory, name(each))
        run.record(name(each), verify_files(run.checkpoints_path / name(each), "structure", 1.0))
    return run.path


def wide():
    import keras

    live = keras.Sequential([keras.Input((16,)), keras.layers.Dense(1024), keras.layers.Dense(1)])
    live.compile("sgd", "mean_squared_error")
    return live


def trained_wrongly(seed: int, number: int, scratch: Path) -> list[str]:
    """A `fit` over damaged checkpoints, compared with the one that nothing stopped."""
    import keras_savekit as sk

    source, undisturbed = stopped_fit(scratch)
    run = fresh(source, scratch / "fit")
    world = World(run, random.Random(f"{seed}-fit-{number}"))
    what, whole = DAMAGES[(number + seed) % len(DAMAGES)](world)
    on, made = training_builders.data(), training_builders.model(seed=99)
    kit = sk.SaveKit(EVERY_STEP, directory=run.path, data=on)
    with redirect_stdout(io.StringIO()):
        training_builders.fit(made, kit, on=on, epochs=1)
    if kit.resumed is None or kit.resumed.name != name(max(whole)):
        return [f"fit {number}: {what}: resumed from {kit.resumed and kit.resumed.name}"]
    if training_builders.digest(made) != undisturbed:
        return [f"fit {number}: {what}: ends with other variables"]
    return []


EVERY_STEP = training_builders.policy(
    training_builders.plan("every 1 steps", when_busy="wait", verify="structure")
)


@cache
def stopped_fit(scratch: Path) -> tuple[Path, str]:
    """A run stopped after the last of `STEPS`, and the digest of the training nothing stopped."""
    import keras_savekit as sk

    directory = scratch / "master-fit"
    made, on = training_builders.model(), training_builders.data()
    kit = sk.SaveKit(EVERY_STEP, directory=directory, data=on)
    stop = training_builders.Interrupt(len(STEPS))
    with suppress(KeyboardInterrupt):
        training_builders.fit(made, kit, stop, on=on, epochs=1)
    whole = training_builders.model()
    whole.fit(training_builders.data(), epochs=1, verbose=0, shuffle=False)
    return directory, training_builders.digest(whole)
