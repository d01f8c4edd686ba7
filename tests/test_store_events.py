"""The run's log."""

import errno
import json
import os
import threading

import numpy as np
import pytest

from keras_savekit.errors import DirectoryError
from keras_savekit.store.event_log import EventLog


def log(tmp_path, now=7.0):
    return EventLog(tmp_path / "events.jsonl", clock=lambda: now)


def kinds(events):
    return [each["kind"] for each in events]


def test_events_are_read_in_the_order_they_were_written(tmp_path):
    events = log(tmp_path)
    assert events.read() == []
    events.append("saved", name="a", seconds=1.5)
    events.append("removed", name="a", reasons=("last 3",))
    assert events.read() == [
        {"time": 7.0, "kind": "saved", "name": "a", "seconds": 1.5},
        {"time": 7.0, "kind": "removed", "name": "a", "reasons": ["last 3"]},
    ]


def test_numbers_that_are_not_finite_stay_standard_json(tmp_path):
    events = log(tmp_path)
    events.append("saved", a=float("nan"), b=np.float32("-inf"), c={"d": [np.float64(0.5)]})
    line = (tmp_path / "events.jsonl").read_text()
    event = json.loads(line, parse_constant=pytest.fail)
    assert (event["a"], event["b"], event["c"]) == ("NaN", "-Infinity", {"d": [0.5]})


def test_a_torn_last_line_is_passed_over_wherever_it_tore(tmp_path):
    events = log(tmp_path)
    events.append("first")
    start = events.path.stat().st_size
    events.append("second", text="ä\n")
    whole = events.path.read_bytes()
    for length in range(start, len(whole)):
        events.path.write_bytes(whole[:length])
        complete = length == len(whole) - 1  # only the end of the line is missing
        assert kinds(events.read()) == (["first", "second"] if complete else ["first"])
        events.append("third")
        events.append("fourth")
        assert kinds(events.read())[-2:] == ["third", "fourth"]
        assert "after_torn_line" not in events.read()[-2]


@pytest.mark.parametrize("junk", ["junk", "", "[1]", "{}"])
def test_a_broken_line_that_no_crash_explains_is_an_error(tmp_path, junk):
    events = log(tmp_path)
    events.append("first")
    with events.path.open("a") as file:
        file.write(f"{junk}\n")
    events.append("second")
    with pytest.raises(DirectoryError, match="line 2 is not an event"):
        events.read()


def test_threads_do_not_mix_their_lines(tmp_path):
    events = log(tmp_path)

    def work(number):
        for each in range(50):
            events.append("event", number=number, each=each, text="x" * 500)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = events.read()
    assert len(read) == 200
    for number in range(4):
        assert [each["each"] for each in read if each["number"] == number] == list(range(50))


def test_an_event_is_one_write(tmp_path, monkeypatch):
    sizes = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: (sizes.append(len(data)), write(fd, data))[1])
    log(tmp_path).append("saved", text="x" * 10_000)
    assert len(sizes) == 1


def test_a_disk_that_refuses_a_line_is_told_once_and_ends_nothing(tmp_path, monkeypatch):
    events = log(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    events.append("saved")
    events.append("saved")
    assert "cannot append to the log: No space left" in str(events.failure())
    assert events.failure() is None


def test_a_field_cannot_pass_for_the_time(tmp_path):
    with pytest.raises(ValueError, match="cannot be called time"):
        log(tmp_path).append("saved", time=1)
