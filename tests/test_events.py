"""The record of a run: whole lines, whatever they hold and whoever is killed; and what readers make of it."""

import json
import math
import os
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.events import (
    EventWriter,
    last_iteration,
    outcome,
    read_events,
    read_run,
    results,
    split_starts,
    step_values,
)

ENDLESS = """
import sys
from rmae_d2.events import EventWriter
writer = EventWriter(sys.argv[1])
i = 0
while True:
    writer.write("step", iteration=i, values={"text": "x" * 500})
    i += 1
"""


def strict(text):
    """As a JSON parser reads it that knows no NaN."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_a_line_an_event(tmp_path):
    writer = EventWriter(tmp_path)
    before = datetime.now(timezone.utc)
    values = {"a": 0.1 + 0.2, "b": math.nan, "c": -math.inf, "d": np.float32(0.5), 3: np.int64(4)}
    writer.write("step", iteration=7, values=values)
    writer.write("x", path=tmp_path, rest=[(1, None, True), torch.tensor(2.0), "ü\n\ud800"])
    first, second = map(strict, (tmp_path / "run.jsonl").read_text().splitlines())
    assert list(first) == ["event", "time", "iteration", "values"] and first["event"] == "step"
    assert abs((datetime.fromisoformat(first["time"]) - before).total_seconds()) < 60
    assert first["time"].endswith("+00:00")
    assert first["values"] == {"a": 0.1 + 0.2, "b": "NaN", "c": "-Infinity", "d": 0.5, "3": 4}
    assert second["path"] == str(tmp_path) and second["rest"] == [[1, None, True], 2.0, "ü\n?"]
    EventWriter(None).write("x")


def test_killed_and_taken_up(tmp_path):
    """Of a process that is killed while it writes, every line is whole; a torn one is passed over."""
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)])
    path = tmp_path / "run.jsonl"
    while not (path.exists() and path.stat().st_size > 1 << 16):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    events, notes = read_events(path)
    assert notes == [] and [e["iteration"] for e in events] == list(range(len(events)))
    os.truncate(path, path.stat().st_size - 3)
    kept, notes = read_events(path)
    assert kept == events[:-1]
    assert notes == [f"run.jsonl: line {len(events)} is not whole and is left out"]
    EventWriter(tmp_path).write("start")
    again, notes = read_events(path)
    assert again[:-1] == kept and again[-1]["event"] == "start" and len(notes) == 1


def test_events_that_cannot_be_written_are_told_of_once(tmp_path, caplog):
    writer = EventWriter(tmp_path / "absent")
    writer.write("start")
    writer.write("end")
    assert caplog.text.count("events are lost") == 1


def test_no_file(tmp_path):
    assert read_events(tmp_path / "run.jsonl") == read_run(tmp_path) == ([], [])


def step(iteration, **values):
    return {"event": "step", "iteration": iteration, "values": values}


def test_later_events_of_an_iteration_win():
    events = [step(1, loss=5.0, lr=0.1), step(2, loss=4.0), step(1, loss=3.0), step(0, loss="NaN")]
    values = step_values(events)
    assert math.isnan(values["loss"][0][1]) and values["loss"][1:] == [(1, 3.0), (2, 4.0)]
    assert values["lr"] == [(1, 0.1)] and last_iteration(events) == 2


def test_evaluations_alone_have_no_iteration():
    found = {"knn/top1": 1.0}
    events = [{"event": "evaluation", "results": found | {"x": v}} for v in (1, 2)]
    events += [{"event": "evaluation", "iteration": 4, "results": found}]
    assert results(events)["knn/top1"][0] == (4, 1.0) and math.isnan(results(events)["x"][0][0])
    assert [y for _, y in results(events)["x"]] == [2.0]


def test_metrics_of_0_1_come_before_what_0_2_went_on_with(tmp_path):
    lines = [{"iteration": i, "loss_pixel": 9.0, "fast_rcnn/x": 1, "lr": 0.1} for i in range(4)]
    lines += [{"iteration": 2, "coco_val/bbox/AP": 2.5}]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"it')
    (events, notes) = read_run(tmp_path)
    assert notes == []
    assert step_values(events).keys() == {"loss_pixel", "fast_rcnn/x", "lr"}
    EventWriter(tmp_path).write("step", iteration=2, values={"loss_pixel": 1.0})
    events, _ = read_run(tmp_path)
    assert step_values(events)["loss_pixel"] == [(0, 9.0), (1, 9.0), (2, 1.0)]
    assert results(events) == {"coco_val/bbox/AP": [(2, 2.5)]}


@pytest.mark.parametrize(
    "kinds, said",
    [
        ([{"event": "end", "outcome": "finished"}], "finished"),
        ([{"event": "end", "outcome": "stopped", "text": "stopped by X"}], "stopped by X"),
        (
            [{"event": "error", "type": "E", "text": "no"}, {"event": "end", "outcome": "failed"}],
            "failed: E: no",
        ),
        ([{"event": "error", "text": "a"}, {"event": "error", "text": "b"}], "failed: b"),
        ([{"event": "error", "text": "a"}, step(1)], ""),
        ([step(1), {"event": "warning", "text": "a"}], ""),
    ],
)
def test_how_a_start_ended(kinds, said):
    before = [step(0), {"event": "start"}, {"event": "error", "text": "old"}, {"event": "start"}]
    starts = split_starts([*before, *kinds])
    assert [len(start) for start in starts] == [2, 1 + len(kinds)]
    assert outcome(starts[1]) == said


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(10**400), 10**400) | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)
KEYS = st.sampled_from(["event", "iteration", "values", "results", "text", "outcome"])
KINDS = st.sampled_from(["start", "step", "evaluation", "error", "end", "checkpoint"])


@given(st.lists(st.dictionaries(KEYS, JSON | KINDS)), st.binary(max_size=40))
def test_any_file_reads(tmp_path_factory, records, noise):
    folder: Path = tmp_path_factory.mktemp("run")
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    for name in ("run.jsonl", "metrics.json"):
        (folder / name).write_bytes(text + noise)
    events, _ = read_run(folder)
    step_values(events), results(events), last_iteration(events)
    assert all(isinstance(outcome(start), str) for start in split_starts(events))
