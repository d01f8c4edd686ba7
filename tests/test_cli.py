"""The command line."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from test_store_builders import add, fake_checkpoint, prepared, write_manifest

from keras_savekit._version import __version__
from keras_savekit.cli import main as cli
from keras_savekit.cli._output import short_size
from keras_savekit.errors import printable_text
from keras_savekit.policy.plan import Limits
from keras_savekit.store.manifest import Finding, Verification, supersedes
from keras_savekit.store.run_writer import RunWriter

POLICY = """\
version: 1
directory: runs/a
plans:
  - name: latest
    save: model
    when: [every: {steps: 200}]
    keep: {last: 3}
"""


@pytest.fixture
def run(tmp_path):
    run = prepared(tmp_path / "run")
    for step in (5, 10):
        add(run, step, build=fake_checkpoint)
    run.link("latest", "000000010-latest")
    run.record("000000005-latest", Verification("load", 7.0))
    return run


@pytest.fixture
def savekit(capsys):
    """Runs a command in this process: exit code, standard output, standard error."""

    def call(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def process(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "keras_savekit", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def damage(run, name="000000010-latest"):
    path = run.checkpoints_path / name / "model.h5"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


def test_list_shows_every_checkpoint_with_what_matters_about_it(run, savekit):
    code, out, err = savekit("list", run.path)
    assert (code, err) == (0, "")
    first, second = (line for line in out.splitlines() if line.startswith("0000000"))
    assert "verified: load" in first
    assert first.count("latest") == 2  # in its name and as its plan
    assert second.count("latest") == 3
    for text in ("1.2", "model", "unverified", "every 5 steps", "loss=0.25", "val_loss=nan", "kB"):
        assert text in second


def test_list_as_json_is_complete_and_standard(run, savekit):
    run.quarantine(add(run, 1), Verification("bytes", 3.0, (Finding("digest", "a", "b"),)))
    (run.checkpoints_path / "stray").touch()
    info = run.write_run_info({})
    code, out, err = savekit("list", run.path, "--json")
    assert (code, err) == (0, "")
    listing = json.loads(out, parse_constant=pytest.fail)
    assert listing["run"] == info.run
    assert (listing["latest"], listing["best"]) == ("000000010-latest", None)
    first, second = listing["checkpoints"]
    assert (first["status"], first["depth"], first["when"]) == ("verified", "load", 7.0)
    assert second == {
        "name": "000000010-latest",
        "path": str(run.checkpoints_path / "000000010-latest"),
        "plan": "latest",
        "save": "model",
        "model_file": "model.h5",
        "step": 10,
        "epoch": 1,
        "batch": 2,
        "seconds": 0.0,
        "logs": {"loss": 0.25, "val_loss": "NaN"},
        "reasons": ["every 5 steps"],
        "created": 1000.0,
        "bytes": run.open("000000010-latest").manifest.bytes,
        "status": "unverified",
        "depth": None,
        "when": None,
        "note": "",
        "findings": [],
        "portable": None,
        "not_portable": [],
    }
    assert listing["damaged"] == []
    assert listing["foreign"] == ["stray"]
    assert listing["quarantine"] == [
        {
            "name": "000000001-latest",
            "depth": "bytes",
            "when": 3.0,
            "findings": [{"kind": "digest", "where": "a", "what": "b"}],
        }
    ]


def test_list_reports_failed_damaged_and_quarantined_checkpoints(run, savekit):
    bad = Verification("bytes", 3.0, (Finding("digest", "model.h5", "changed"),))
    run.quarantine(add(run, 1), bad)
    run.record("000000005-latest", bad)
    (run.checkpoints_path / "000000010-latest" / "manifest.json").unlink()
    _, out, _ = savekit("list", run.path)
    failed, damaged, quarantine = out.split("\n\n")[-3:]
    assert failed == "failed:\n  000000005-latest\n    changed [model.h5]"
    assert damaged == "damaged:\n  000000010-latest\n    manifest.json is missing"
    assert quarantine == "quarantine:\n  000000001-latest\n    changed [model.h5]\n"


def test_a_run_without_checkpoints_is_listed_as_such(tmp_path, savekit):
    prepared(tmp_path)
    assert savekit("list", tmp_path) == (0, "no checkpoints\n", "")


@pytest.mark.parametrize("command", ["list", "verify"])
def test_a_directory_without_a_run_is_wrong_usage(tmp_path, savekit, command):
    code, out, err = savekit(command, tmp_path / "missing", "--json")
    assert (code, out) == (2, "")
    assert err == f"savekit: no such directory [{tmp_path / 'missing'}]\n"
    code, out, err = savekit(command, tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"savekit: not the directory of a run [{tmp_path}]\n  give the directory")


def test_a_run_of_a_newer_version_is_refused_by_name(run, savekit):
    (run.path / "savekit.json").write_text('{"format": 9}')
    code, out, err = savekit("list", run.path, "--json")
    assert (code, out) == (2, "")
    assert "directory format 9 is not known" in err


def test_verify_records_what_it_finds(run, savekit):
    damage(run)
    code, out, err = savekit("verify", run.path)
    assert (code, err) == (1, "")
    assert out == (
        "good  000000005-latest  structure\n"
        "bad   000000010-latest  bytes\n"
        "      the file's content is not what was written [model.h5]\n"
        "      damaged files are not opened: model.h5\n"
        "2 checked at depth structure, 1 bad\n"
    )
    assert run.open("000000010-latest").status == "failed"
    assert run.open("000000005-latest").verification == Verification("load", 7.0)


def test_verify_ends_with_zero_if_every_checkpoint_is_good(run, savekit):
    code, out, _ = savekit("verify", run.path, "--depth", "bytes", "--json")
    assert code == 0
    outcome = json.loads(out)
    assert (outcome["good"], outcome["depth"]) == (True, "bytes")
    assert [checkpoint["recorded"] for checkpoint in outcome["checkpoints"]] == [True, True]
    assert run.open("000000010-latest").verification.depth == "bytes"


def test_verify_records_nothing_while_a_training_uses_the_directory(run, savekit):
    damage(run)
    with RunWriter.acquire(run):
        code, out, err = savekit("verify", run.path)
        assert code == 1
        assert "1 bad" in out
        assert err == "2 not recorded: the directory is in use or cannot be written\n"
    assert run.open("000000010-latest").status == "unverified"


def test_verify_accepts_the_path_of_one_checkpoint_or_a_link_to_it(run, savekit):
    damage(run)
    assert savekit("verify", run.checkpoints_path / "000000005-latest")[0] == 0
    code, out, _ = savekit("verify", run.path / "latest", "--json")
    assert code == 1
    (outcome,) = json.loads(out)["checkpoints"]
    assert outcome["name"] == "000000010-latest"
    assert outcome["recorded"]
    assert run.open("000000010-latest").status == "failed"


def test_verify_accepts_a_checkpoint_that_was_copied_out_of_its_run(tmp_path, savekit):
    (tmp_path / "copy").mkdir()
    fake_checkpoint(tmp_path / "copy")
    code, out, _ = savekit("verify", tmp_path / "copy")
    assert (code, out.splitlines()[0]) == (0, "good  copy  structure")
    assert not (tmp_path / "copy" / "verification.json").exists()


def test_verify_reports_a_manifest_that_does_not_fit_its_directory(run, savekit):
    (run.checkpoints_path / "000000010-latest" / "manifest.json").write_text("{")
    (run.checkpoints_path / "stray").touch()
    write_manifest(run.checkpoints_path / "000000005-latest", step=6)
    code, out, _ = savekit("verify", run.path, "--json")
    assert code == 1
    outcomes = json.loads(out)["checkpoints"]
    assert [outcome["good"] for outcome in outcomes] == [False] * 2
    assert "of another checkpoint: step 6" in outcomes[0]["findings"][0]["what"]
    assert "malformed" in outcomes[1]["findings"][0]["what"]
    assert json.loads(out)["foreign"] == ["stray"]


def test_a_file_of_the_user_is_a_note_and_not_damage(run, savekit):
    (run.checkpoints_path / "README.md").touch()
    code, out, _ = savekit("verify", run.path)
    assert code == 0
    assert out.splitlines()[-1] == "note: README.md is not a checkpoint and is left alone"
    _, out, _ = savekit("list", run.path)
    assert out.split("\n\n")[-1] == "not checkpoints, left alone:\n  README.md\n"


def test_a_shallow_good_outcome_does_not_replace_a_deep_one():
    finding = (Finding("digest", "a", "b"),)
    deep, shallow = Verification("load", 1.0), Verification("bytes", 2.0)
    assert supersedes(shallow, None)
    assert supersedes(deep, shallow)
    assert supersedes(deep, deep)
    assert not supersedes(shallow, deep)
    assert supersedes(Verification("bytes", 2.0, finding), deep)
    assert not supersedes(shallow, Verification("load", 1.0, finding))


def test_an_unfinished_verification_does_not_replace_a_finished_one():
    undone = Verification("structure", 2.0, note="no time", done=False)
    assert supersedes(undone, None)
    assert supersedes(undone, undone)
    assert not supersedes(undone, Verification("bytes", 1.0))
    assert supersedes(Verification("bytes", 1.0), undone)


@pytest.mark.slow
def test_verify_obeys_the_limits_of_the_run_and_reports_what_stays_unverified(run, savekit):
    limits = Limits(verify_memory="20MB", verify_time="50s").model_dump(mode="json")
    run.write_run_info({"limits": limits})
    code, out, _ = savekit("verify", run.path / "latest", "--depth", "load")
    assert code == 1
    assert out.startswith("open  000000010-latest  structure\n      not loaded: ")
    assert "more than the allowed 20MB (limits.verify_memory)" in out
    assert out.endswith("1 checked at depth load, 0 bad, 1 could not be verified\n")
    assert run.open("000000010-latest").status == "unverified"
    assert "unverified" in savekit("list", run.path)[1]


def test_check_prints_what_a_policy_does(tmp_path, savekit):
    (tmp_path / "policy.yaml").write_text(POLICY)
    code, out, err = savekit("check", tmp_path / "policy.yaml")
    assert (code, err) == (0, "")
    assert "every 200 steps" in out


def test_check_prints_every_problem_of_a_policy(tmp_path, savekit):
    (tmp_path / "policy.yaml").write_text(
        POLICY.replace("last: 3", "last: 0").replace("save", "sav")
    )
    code, out, err = savekit("check", tmp_path / "policy.yaml")
    assert (code, out) == (2, "")
    assert "cannot be used (" in err
    assert "line " in err
    assert savekit("check", tmp_path / "missing.yaml")[0] == 2


def test_wrong_arguments_end_with_two(savekit):
    for arguments in (["frobnicate"], ["list"], ["verify", ".", "--depth", "deep"], ["list", "-x"]):
        code, out, err = savekit(*arguments)
        assert (code, out) == (2, "")
        assert "Usage: savekit" in err


def test_help_and_version_end_with_zero(savekit):
    assert savekit("--version") == (0, f"savekit, version {__version__}\n", "")
    code, out, _ = savekit("--help")
    assert code == 0
    assert all(command in out for command in ("list", "verify", "check"))


def test_names_cannot_control_the_terminal(run, savekit):
    name = os.fsdecode(b"\x1b[31mred\n\xff")
    (run.checkpoints_path / name).touch()
    for command in ("list", "verify"):
        _, out, _ = savekit(command, run.path)
        assert r"\x1b[31mred\n\udcff" in out
    assert json.loads(savekit("list", run.path, "--json")[1])["foreign"] == [name]


def test_sizes_are_short_and_control_characters_are_escaped():
    assert printable_text("a\tb\u202e") == r"a\tb\u202e"
    counts = (0, 999, 1000, 999_499, 999_600, 1_234_567, 5 * 10**15)
    sizes = [short_size(count) for count in counts]
    assert sizes == ["0 B", "999 B", "1 kB", "999 kB", "1 MB", "1.23 MB", "5e+03 TB"]


LIGHT = """
import sys
from keras_savekit.cli.main import run
code = run(sys.argv[2:])
loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
assert not loaded, loaded
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], "tensorflow,keras,h5py,numpy,pydantic,rich.table,xxhash,yaml"),
        (["verify", "--help"], "tensorflow,keras,h5py,numpy,pydantic,keras_savekit.cli.list"),
        (["list", "{run}"], "tensorflow,keras,h5py,numpy,yaml"),
        (["verify", "{run}"], "tensorflow,keras,yaml"),
        (["check", "{policy}"], "tensorflow,keras,h5py"),
    ],
)
def test_no_command_imports_more_than_it_needs(run, tmp_path, arguments, forbidden):
    (tmp_path / "policy.yaml").write_text(POLICY)
    filled = [
        argument.format(run=run.path, policy=tmp_path / "policy.yaml") for argument in arguments
    ]
    ended = subprocess.run(
        [sys.executable, "-c", LIGHT, forbidden, *filled],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "--json"], ["verify"], ["list", "--help"]]
)
def test_a_reader_that_goes_away_causes_no_traceback(run, arguments):
    command, *options = arguments
    with process(command, run.path, *options) as savekit:
        savekit.stdout.close()
        assert savekit.stderr.read() == ""
        assert savekit.wait() == cli.BROKEN_PIPE


WAITING = """
import sys, time
from keras_savekit.cli import list as listing, main
def wait(**options):
    print("waiting", flush=True)
    time.sleep(60)
listing.command.callback = wait
sys.exit(main.run(["list", "."]))
"""


def test_an_interrupt_causes_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as savekit:
        assert savekit.stdout.readline() == "waiting\n"
        savekit.send_signal(signal.SIGINT)
        assert savekit.wait() == cli.INTERRUPTED
        assert savekit.stderr.read().strip() == "savekit: interrupted"


def test_a_terminal_gets_a_progress_bar_and_colors(run):
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    savekit = subprocess.Popen(
        [sys.executable, "-m", "keras_savekit", "verify", str(run.path)],
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    text = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        text += piece
    os.close(ours)
    assert savekit.wait() == 0
    assert b"verifying" in text
    assert b"\x1b[32mgood" in text
