"""Trackers against their real local modes: what they hold is read back with their own code."""

import json
import logging
import os
import shutil
import struct
import sys
from pathlib import Path

import pytest

from rmae_d2.engine.trackers import TrackedEvents, check_trackers
from rmae_d2.errors import UserError
from rmae_d2.events import EventWriter, read_run
from tests.helpers import Runs, events, wait_for, write_photos

SHORT = ("train.max_iter=6", "train.log_period=2", "train.eval_period=3")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    for name, value in {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"file://{tmp_path}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return Runs(write_photos(tmp_path / "photos", 4))


def steps_of(out, name):
    return {e["iteration"]: e["values"][name] for e in events(out, "step") if name in e["values"]}


def results_of(out, name):
    return {e["iteration"]: e["results"][name] for e in events(out, "evaluation")}


def wandb_records(file):
    """What an offline run has in its file, a log of LevelDB's form behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if at + 7 + length > len(data):
            return
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def test_wandb(runs, tmp_path):
    pytest.importorskip("wandb")
    out = tmp_path / "run"
    runs.train(out, *SHORT, "train.tracker=wandb")
    (file,) = out.glob("wandb/offline-run-*/*.wandb")
    # Its own process writes the file, and may still do so.
    wait_for(lambda: any(r.WhichOneof("record_type") == "exit" for r in wandb_records(file)))
    history, config = [], {}
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            history.append(
                {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
            )
        for item in record.run.config.update:
            config[item.key] = json.loads(item.value_json)
    found = {row["iteration"]: row["loss_pixel"] for row in history if "loss_pixel" in row}
    assert found == pytest.approx(steps_of(out, "loss_pixel"))
    name = "reconstruction/loss_pixel"
    found = {row["iteration"]: row[name] for row in history if name in row}
    assert found == pytest.approx(results_of(out, name))
    assert config["train"]["max_iter"] == 6
    (tracked,) = events(out, "tracker")
    assert tracked["name"] == "wandb" and tracked["id"] in file.name


def test_mlflow_and_resume(runs, tmp_path):
    """The resumed run goes on in the same one."""
    mlflow = pytest.importorskip("mlflow")
    out = tmp_path / "run"
    runs.train(out, *SHORT, "train.tracker=mlflow")
    runs.train(out, *SHORT, "train.max_iter=8", "train.tracker=mlflow", resume=True)
    client = mlflow.MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("rmae_d2")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    history = client.get_metric_history(run.info.run_id, "loss_pixel")
    assert {m.step: m.value for m in history} == pytest.approx(steps_of(out, "loss_pixel"))
    name = "reconstruction/region_iou"
    history = client.get_metric_history(run.info.run_id, name)
    assert {m.step: m.value for m in history} == pytest.approx(results_of(out, name))
    assert {e["id"] for e in events(out, "tracker")} == {run.info.run_id}
    config = Path(client.download_artifacts(run.info.run_id, "config.json", str(tmp_path)))
    assert json.loads(config.read_text())["train"]["max_iter"] == 8


def test_one_that_cannot_begin_ends_nothing(runs, tmp_path, monkeypatch):
    """A server that is not there."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    out = tmp_path / "run"
    runs.train(out, "train.max_iter=2", "train.tracker=mlflow")
    assert (out / "model_final.pth").is_file()
    warnings = [e["text"] for e in events(out, "warning") if "train.tracker" in e["text"]]
    assert len(warnings) == 1
    assert "train.tracker=mlflow failed and is left out from here on: " in warnings[0]


def test_one_that_fails_on_the_way_is_left_out(tmp_path, monkeypatch, caplog):
    """Its store is taken away; the run's own events are all there, one warning says so."""
    mlflow = pytest.importorskip("mlflow")
    store = tmp_path / "mlruns"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"file://{store}")
    try:
        writer = EventWriter(tmp_path)
        writer.listeners.append(TrackedEvents("mlflow", tmp_path, writer))
        writer.write("config", config={"train": {"max_iter": 2}})
        writer.write("step", iteration=0, values={"loss": 1.5, "word": "NaN"})
        shutil.rmtree(store)
        store.write_text("no folder")
        with caplog.at_level(logging.WARNING):
            for iteration in (1, 2, 3):
                writer.write("step", iteration=iteration, values={"loss": 1.0})
            writer.write("end", outcome="finished")
    finally:
        mlflow.set_tracking_uri(before)
    kinds = [event["event"] for event in read_run(tmp_path)[0]]
    assert kinds == ["config", "tracker", "step", "step", "step", "step", "end"]
    assert caplog.text.count("train.tracker=mlflow failed and is left out") == 1


def test_names():
    assert check_trackers("") == []
    with pytest.raises(UserError, match="train.tracker=wandbb: 'wandbb' is none of wandb, mlflow"):
        check_trackers("wandbb")


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # so that importing it fails
    with pytest.raises(UserError, match="needs wandb .*: pip install 'wandb>="):
        check_trackers("wandb")
