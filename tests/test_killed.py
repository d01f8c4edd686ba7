"""The main promise, with real processes and a real SIGKILL."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_builders import STEPS, events

from keras_savekit.store.run import RunDirectory

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "killed_training.py"


def train(directory, *kill):
    out = Path(f"{directory}.json")
    ended = subprocess.run(
        [sys.executable, SCRIPT, directory, out, *map(str, kill)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if kill:
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        return None
    assert ended.returncode == 0, ended.stderr
    return json.loads(out.read_text())


def test_a_training_killed_twice_ends_where_the_one_nothing_disturbed_ends(tmp_path):
    whole = train(tmp_path / "whole")
    killed = tmp_path / "killed"
    train(killed, STEPS - 2)
    assert all(each.status for each in RunDirectory(killed).checkpoints())
    train(killed, STEPS)
    last = train(killed)
    assert len(events(killed, "resumed")) == 2
    assert last["level"] == "exact"
    assert last["digest"] == whole["digest"]
    assert last["logs"] == whole["logs"]
