"""Only what is ours is moved or removed, whatever a user keeps beside it under whatever name."""

import os
import random
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store_builders import add, unlocked
from training_builders import data, events, fit, model, names, plan, policy

import keras_savekit as sk
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.store.naming import KINDS, CheckpointName, Leftover
from keras_savekit.store.prepare import prepare
from keras_savekit.store.run import LINKS, RunDirectory
from keras_savekit.store.run_writer import RunWriter

BAD = Verification("bytes", 2.0, (Finding("digest", "a.bin", "changed"),))
OURS = {
    "checkpoints", "quarantine", "latest", "best", "savekit.json", "events.jsonl", "probe.npz",
    ".lock", ".lock.holder",
}  # fmt: skip
LEFT = {"savekit.json", "probe.npz", "verification.json", "latest", "best", "probe"}
SEEDS = [
    *sorted(OURS), *(f".{kind}-" for kind in KINDS), "000000004-p", "000000002-p", "12-p", "p",
    ".scratch-000000004-p-4711-0badcafe", ".removing-000000002-p-1-0badcafe", ".writing-probe-1-00",
    ".writing-savekit.json-4711-0badcafe", ".link-latest-4711-0badcafe", "manifest.json",
    "verification.json", "model.h5", "state.h5", "PINNED", "best.keras", "README.md", ".DS_Store",
    ".scratch-notes-4711-0badcafe", ".link-x-1-0badcafe",
    ".writing-draft.md", ".scratch-notes", "notes", ".nfs000000001", "000000004-p.bak",
]  # fmt: skip


def resembling(chance):
    """A name near one of ours: cut, lengthened, in another case, with a look-alike letter."""
    name = chance.choice(SEEDS)
    for _ in range(chance.randint(1, 2)):
        place = chance.randrange(len(name) + 1)
        name = chance.choice([
            name,
            name[:place],
            name[place:],
            name.upper(),
            name.capitalize(),
            name + chance.choice(["~", ".bak", " ", ".2", "-", "\n", "-1-0badcafe", "~1", "é"]),
            chance.choice([".", "_", " ", "copy of ", "0"]) + name,
            name.replace("0", chance.choice("Oo\u06601"), 1),
            name.replace("a", "\u0430"),  # Cyrillic
            name[:place] + chance.choice("-.~ 0aé☃") + name[place:],
        ]) or "x"  # fmt: skip
    return name


def is_ours(name, place):
    """Whether this very name is one that we give in that place."""
    left = Leftover.parse(name)
    return bool(
        name in (".", "..")
        or "/" in name
        or (not place and name in OURS)
        or (place == "checkpoints" and CheckpointName.parse(name))
        or (left and (left.target in LEFT or CheckpointName.parse(left.target)))
    )


def strew(path, chance, count, elsewhere):
    """Files, directories and links of a user's in a run's directory; what each is."""
    put = {}
    for _ in range(count):
        place = chance.choice(["", "checkpoints", "quarantine"])
        name = resembling(chance)
        target = path / place / name
        if is_ours(name, place) or os.path.lexists(target) or len(os.fsencode(name)) > 255:
            continue
        target.parent.mkdir(exist_ok=True, parents=True)
        kind = chance.choice(["file", "file", "directory", "empty", "link", "dangling"])
        if kind == "file":
            target.write_bytes(chance.randbytes(20))
        elif kind == "directory":
            target.mkdir()
            (target / chance.choice(["manifest.json", "model.h5", "notes"])).write_bytes(b"mine")
        elif kind == "empty":
            target.mkdir()
        else:
            target.symlink_to(elsewhere if kind == "link" else "nowhere")
        put[target] = seen(target)
    return put


def seen(path):
    """What is there, as text that can be compared."""
    if path.is_symlink():
        return f"link to {os.readlink(path)}"  # noqa: PTH115
    if path.is_dir():
        return {each.name: seen(each) for each in path.iterdir()}
    return path.read_bytes() if path.exists() else "nothing"


def assert_untouched(put):
    assert {path: seen(path) for path in put} == put


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_no_change_of_a_directory_touches_what_resembles_ours(tmp_path_factory, seed):
    chance = random.Random(seed)
    home = tmp_path_factory.mktemp("run")
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "file").write_text("mine")
    run = unlocked(home / "run")
    put = strew(run.path, chance, 25, home / "elsewhere")
    prepare(run, ["p"])
    with RunWriter.acquire(run) as run:
        run.sweep()
        assert run.recover_run_info() == ""
        run.write_run_info({})
        for step in range(1, 5):
            name = add(run, step, "p")
            run.record(name, BAD)
            for which in LINKS:
                run.link(which, name)
        run.new_scratch("000000009-p")
        put |= strew(run.path, chance, 10, home / "elsewhere")
        run.quarantine("000000004-p", BAD)
        run.remove("000000003-p")
        run.link("best", "000000002-p")
        run.remove("000000002-p")
        for name, _ in run.scan().damaged:
            run.quarantine(name, BAD)
        run.sweep()
    assert [each.name for each in run.checkpoints()] == ["000000001-p"]
    assert sorted(run.foreign()) == sorted(
        path.name for path in put
        if path.parent == run.checkpoints_path and not path.name.startswith(".")
    )  # fmt: skip
    assert_untouched(put)
    assert (home / "elsewhere" / "file").read_text() == "mine"
    assert not [
        path for path in run.path.rglob("*") if Leftover.parse(path.name) and path not in put
    ]


def contents(path):
    """Every file's content below a directory, however it is called."""
    return {each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_session_touches_what_resembles_ours(tmp_path, seed):
    chance = random.Random(seed)
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")
    put = strew(run, chance, 40, elsewhere)
    inside = set()

    def kit():
        given = policy(plan("every 2 steps", keep="last 2"))
        return sk.SaveKit(given, directory=run, data=data())

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(model(), kit(), epochs=1)
    first = [str(each.message) for each in told if "left alone" in str(each.message)]
    assert len(first) == 1
    put |= strew(run, chance, 20, elsewhere)
    (run / "checkpoints" / ".scratch-000000099-p-1-0badcafe").mkdir()  # as a crash leaves it
    # A user's files within a checkpoint move with it; this one is quarantined for them.
    for number, name in enumerate(names_of_checkpoints(run)):
        text = f"mine {number}".encode()
        (run / "checkpoints" / name / "notes.txt").write_bytes(text)
        inside.add(text)
    newest = run / "checkpoints" / names_of_checkpoints(run)[-1]
    damaged = bytearray((newest / "model.h5").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (newest / "model.h5").write_bytes(damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sk.SavekitWarning)
        fit(model(), kit(), epochs=2)
    assert events(run, "quarantined")
    assert events(run, "removed")
    assert_untouched(put)
    assert inside <= contents(run)
    assert (elsewhere / "file").read_text() == "mine"
    assert not [path for path in run.rglob("*") if Leftover.parse(path.name) and path not in put]


def names_of_checkpoints(run):
    return [name for name in names(run) if CheckpointName.parse(name)]


class Between(sk.SaveKit):
    """Does something at the end of the first epoch, when its saves are done."""

    def __init__(self, do, *given, **named):
        super().__init__(*given, **named)
        self.do = do

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch == 0:
            self.session._pipeline.join()
            self.do(self.directory)


def told_by(run, do, **changes):
    """Warnings of two epochs between which something happens."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        given = policy(plan("every epoch", **changes))
        fit(model(), Between(do, given, directory=run, data=data()), epochs=3)
    return [str(each.message) for each in told if issubclass(each.category, sk.SavekitWarning)]


@pytest.mark.slow
def test_a_directory_of_checkpoints_that_was_deleted_in_training_is_made_again(tmp_path):
    def delete(directory):
        os.rename(directory.checkpoints_path, tmp_path / "away")  # noqa: PTH104

    told = told_by(tmp_path / "run", delete)
    assert [text for text in told if "made again" in text] == told
    assert len(told) == 1
    assert names(tmp_path / "run") == ["000000012-p", "000000018-p"]
    assert len(events(tmp_path / "run", "remade")) == 1


@pytest.mark.slow
def test_a_file_in_a_checkpoint_outlives_it_and_is_reported(tmp_path):
    def write(directory):
        (directory.checkpoints_path / "000000006-p" / "notes.txt").write_text("mine")

    told = told_by(tmp_path, write, keep="last 1")
    assert len(told) == 1
    assert "notes.txt of 000000006-p, which the policy removed, moved to" in told[0]
    place = tmp_path / "quarantine" / "000000006-p"
    assert (place / "notes.txt").read_text() == "mine"
    assert sorted(each.name for each in place.iterdir()) == ["notes.txt", "verification.json"]
    (event,) = events(tmp_path, "rescued")
    assert event["files"] == ["notes.txt"]


@pytest.mark.slow
def test_a_link_that_is_the_users_is_left_alone_and_reported_once(tmp_path):
    (tmp_path / "latest").symlink_to("somewhere")
    told = told_by(tmp_path, lambda directory: None)
    assert len(told) == 1
    assert "latest is not set" in told[0]
    assert os.readlink(tmp_path / "latest") == "somewhere"  # noqa: PTH115
    assert len(names(tmp_path)) == 3


@pytest.mark.slow
def test_a_damaged_savekit_json_does_not_refuse_training(tmp_path):
    given = policy(plan("every epoch"))
    fit(model(), sk.SaveKit(given, directory=tmp_path, data=data()), epochs=1)
    before = RunDirectory(tmp_path).run_info().run
    text = (tmp_path / "savekit.json").read_bytes()
    (tmp_path / "savekit.json").write_bytes(text.replace(b"{", b"\xfb", 1))
    kit = sk.SaveKit(given, directory=tmp_path, data=data())
    with pytest.warns(sk.SavekitWarning, match=r"savekit.json was damaged .*000000006-p"):
        fit(model(), kit, epochs=2)
    assert kit.resumed.name == "000000006-p"
    assert RunDirectory(tmp_path).run_info().run == before
    assert len(events(tmp_path, "quarantined")) == 1


def test_a_readme_among_the_checkpoints_is_no_earlier_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "README.md").write_text("mine")
    kit = sk.SaveKit(policy(resume="never"), directory=tmp_path, data=data())
    with pytest.warns(sk.SavekitWarning, match=r"left alone in .*: README.md"):
        fit(model(), kit, epochs=1)
    assert (tmp_path / "checkpoints" / "README.md").read_text() == "mine"


def test_a_path_too_long_is_refused_before_training(tmp_path):
    with pytest.raises(sk.DirectoryError, match="shorter"):
        fit(model(), sk.SaveKit(policy(), directory=tmp_path.joinpath(*["d" * 200] * 20)))
    assert list(tmp_path.iterdir()) == []
