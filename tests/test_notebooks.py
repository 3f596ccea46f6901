"""The notebooks: each runs from its first cell to its last, and its stored outputs are of its code."""

import json
import re
import sys

import pytest

from rmae_d2.events import FILE, read_events
from tests.helpers import ROOT

for package in ("papermill", "ipykernel", "sklearn"):
    pytest.importorskip(package, reason="needs rmae_d2[dev]")

import nbformat  # noqa: E402

from notebooks.execute import code_digest, execute  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook):
    """All text of a notebook's outputs."""
    return "".join(output.get("text", "") for output in outputs(notebook))


def streams(notebook):
    """The names of a notebook's text outputs; stderr has warnings."""
    return {output.name for output in outputs(notebook) if output.output_type == "stream"}


def pictures(notebook):
    """The pictures of a notebook's outputs, in base64."""
    return [o.data["image/jpeg"] for o in outputs(notebook) if "image/jpeg" in o.get("data", {})]


def of_run(folder, kind):
    """A run's events of one kind."""
    return [event for event in read_events(folder / FILE)[0] if event["event"] == kind]


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Executes a notebook in an empty folder; the notebook, and the folder of its work."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(name, **sizes):
        given = {"work": "work", **sizes}
        done = execute(ROOT / "notebooks" / name, tmp_path / name, tmp_path, given)
        assert streams(done) == {"stdout"}
        return done, tmp_path / "work"

    return run


def test_there_are_three():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_of_the_code_beside_them(path):
    assert path.stat().st_size < 700_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert notebook.metadata.rmae_d2.executed_code_sha256 == code_digest(notebook), (
        "the code has changed since: make notebooks"
    )
    assert cells[0].metadata.tags == ["parameters"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data"}
    assert streams(notebook) == {"stdout"}
    assert pictures(notebook)
    absolute = re.findall(r"(?<![\w./:*])/(?!labelled|classified)\w+/\S*", printed(notebook))
    assert not absolute


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_stops_where_a_command_fails(path, tmp_path):
    parameters, setup, *_ = code_cells(nbformat.read(path, as_version=4))
    names = {}
    exec(parameters.source, names)
    names["work"] = tmp_path
    exec(setup.source, names)
    with pytest.raises(RuntimeError, match=r"rmae-d2 learn failed:\n(.*\n)*.*'learn'"):
        names["run"]("learn")  # there is no such command


def test_the_kernel_is_this_python(tmp_path, monkeypatch):
    """Not the one that somebody's kernel of the usual name starts."""
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    other = {"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}
    spec.write_text(json.dumps(other))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    cell = nbformat.v4.new_code_cell("import sys\nprint(sys.executable)")
    kernel = {"name": "python3", "display_name": "x", "language": "python"}
    asks = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(asks, tmp_path / "asks.ipynb")
    done = execute(tmp_path / "asks.ipynb", tmp_path / "done.ipynb", tmp_path)
    assert printed(done) == f"{sys.executable}\n"


def test_features_for_a_classifier(executed):
    notebook, work = executed("features_for_a_classifier.ipynb", num_train=48, num_val=24)
    accuracy = json.loads((work / "accuracy.json").read_text())
    assert accuracy.keys() == {"trained encoder", "random weights", "pixels", "commonest class"}
    assert accuracy["trained encoder"] > 2 * accuracy["commonest class"] > 0
    for name, share in accuracy.items():
        assert f"{name:16} {share:6.1%} +- " in printed(notebook)
    assert len(pictures(notebook)) == 1


@pytest.mark.slow
def test_photos_to_detector(executed):
    notebook, work = executed(
        *("photos_to_detector.ipynb",), num_train=24, num_val=6, pretrain_steps=5, detector_steps=30
    )
    text = printed(notebook)
    assert "24 images, 24 of them can be read" in text and "nothing is wrong" in text
    for task in ("bbox", "segm"):
        (average_precision,) = re.findall(rf"after iteration 30: {task} AP ([\d.]+)", text)
        assert 0 <= float(average_precision) <= 100
    (result,) = of_run(work / "pretrained", "evaluation")
    # The shipped weights begin at 0.64 and 0.72; random weights at 1 and 0.
    assert result["results"]["reconstruction/loss_pixel"] < 0.9
    assert result["results"]["reconstruction/region_iou"] > 0.5
    # The first to fall: the loss of boxes rises while proposals begin to meet objects.
    losses = [event["values"]["loss_rpn_cls"] for event in of_run(work / "detector", "step")]
    assert losses[-1] < 0.9 * losses[0]
    images = json.loads((work / "predictions/images.json").read_text())["images"]
    assert len(images) == 3
    boxes = json.loads((work / "predictions/predictions.json").read_text())
    assert {box["image_id"] for box in boxes} <= {image["id"] for image in images}
    assert len(pictures(notebook)) == 4


@pytest.mark.slow
def test_what_has_it_learned(executed):
    notebook, work = executed("what_has_it_learned.ipynb", num_photos=2, num_val=6, num_train=40)
    text = printed(notebook)
    losses = [float(loss) for loss in re.findall(r"region IoU .* pixel loss ([\d.]+),", text)]
    trained, untrained = losses
    assert trained < 0.75 and untrained > 0.95
    nearest = json.loads((work / "nearest.json").read_text())
    assert nearest["trained"] > 2 * nearest["chance"] > 0
    assert len(pictures(notebook)) == 3
