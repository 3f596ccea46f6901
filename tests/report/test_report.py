"""Pages about real tiny runs: finished, prolonged, cut, incomplete, hostile."""

import base64
import io
import json
import math
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rmae_d2 import commands
from rmae_d2.errors import UserError
from rmae_d2.events import EventWriter
from rmae_d2.report.report import shorten_paths, write_report
from rmae_d2.report.run_record import read_config, read_folder
from tests import helpers as engine

ROOT = engine.ROOT
OF_0_1 = ROOT / "tests/data/run_of_0.1"

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "</pre></style><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}$x_$"


class Page(HTMLParser):
    """A page taken apart; opening and closing tags must match."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.links, self.pictures, self.attributes = [], [], [], [], set()
        self.words, self._open = [], []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._note(dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._note(dict(attrs))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    def _note(self, attrs):
        self.attributes |= set(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        links = ("href", "xlink:href", "action", "data", "srcset")
        self.links += [attrs[k] for k in links if k in attrs]
        self.pictures += [attrs["src"]] if "src" in attrs else []

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(folder, *transfers, **options):
    """Writes the page of a run elsewhere, and checks what holds for every page."""
    output = folder.parent / f"{folder.name}.html"
    assert write_report(folder, transfers, output, **options) == output
    html = output.read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags and not {a for a in page.attributes if a.startswith("on")}
    assert len(page.ids) == len(set(page.ids))
    assert set(page.links) <= {f"#{name}" for name in page.ids}
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    page.images = [decode(uri) for uri in page.pictures]
    return page


def decode(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        image.load()
        return image


@pytest.fixture(scope="module")
def finished(runs, tmp_path_factory):
    """An R-MAE with pictures and evaluations, and beside it an MAE that began with its weights."""
    folder = tmp_path_factory.mktemp("output")
    watch = ("train.vis_period=2", "train.eval_period=3", "train.max_iter=6")
    runs.train(folder / "rmae", *watch)
    first = f"train.init_checkpoint={folder / 'rmae/model_final.pth'}"
    tiny = [o for o in runs.tiny if "region_branch" not in o]
    mae = ROOT / "configs/demo/mae_tiny_scenes.py"
    short = ("train.max_iter=2", "train.checkpointer.period=0", first)
    runs.train(folder / "mae", *tiny, *short, config=mae, tiny=False)
    return folder / "rmae"


@pytest.fixture
def copy(finished, tmp_path):
    """The finished run's small files, to be spoilt."""
    ignore = shutil.ignore_patterns("*.pth", "*.html")
    return Path(shutil.copytree(finished, tmp_path / "output/rmae", ignore=ignore))


def test_a_finished_run(finished, tmp_path):
    page = page_of(finished)
    title = "rmae: R-MAE pre-training rmae R-MAE pre-training"
    assert page.text.startswith(f"{title} · ViT of 2 blocks, width 32")
    assert "finished" in page.text and "6 of 6" in page.text
    for name in ("loss_pixel", "loss_region", "lr: learning rate", "reconstruction/region_iou"):
        assert name in page.text
    last = engine.events(finished, "step")[-1]["values"]
    assert f"loss_region, last {last['loss_region']:.4g}" in page.text
    iou = [
        f"{engine.events(finished, 'evaluation')[-1]['results'][f'reconstruction/region_iou{end}']:.4g}"
        for end in ("", "_nearest")
    ]
    assert f"reconstruction/region_iou {iou[0]} (nearest patch {iou[1]})" in page.text
    assert re.findall(r"after (\d+) iterations", page.text) == ["2", "4", "6"]
    assert len(page.images) == 4  # and the last of all samples
    assert page.images[0].height < page.images[-1].height
    assert page.tags.count("svg") >= 8
    # What the run was asked beyond its base config, and nothing else.
    assert "What differs from configs/demo/rmae_tiny_scenes.py" in page.text
    assert "dataloader.train.total_batch_size 32 4" in page.text
    assert "pixel_decoder.num_heads" not in page.text.partition("The whole config")[0]
    import torch

    assert f"torch {torch.__version__}" in page.text and "device cpu, fp32" in page.text
    assert "--config-file configs/demo/rmae_tiny_scenes.py train.device=cpu" in page.text
    year = re.search(r"started (\d{4})-\d\d-\d\d \d\d:\d\d", page.text)
    assert year and int(year.group(1)) >= 2024


def test_the_same_files_give_the_same_bytes(finished, tmp_path):
    first = write_report(finished, output=tmp_path / "a.html").read_bytes()
    assert write_report(finished, output=tmp_path / "new/b.html").read_bytes() == first


def test_no_paths_but_the_configs(finished):
    html = write_report(finished, output=finished.parent / "leak.html").read_text(encoding="utf-8")
    assert str(finished) in html  # train.output_dir
    for path in (str(ROOT), "site-packages", sys.prefix, str(Path.home()) + "/"):
        assert path not in html.replace(str(finished.parent.parent), "")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("saved /home/me/out/model.pth.", "saved …/model.pth."),
        ("open('/home/me/a b/c.jpg')", "open('…/c.jpg')"),
        ("--root=/home/me/photos/", "--root=…/photos"),
        ("file:///home/me/x.png", "…/x.png"),
        (r"at C:\Users\me\x.png", "at …/x.png"),
        ("16.8 images/s, 1/2, and/or ../x ~/y a/b", "16.8 images/s, 1/2, and/or ../x ~/y a/b"),
        ("https://example.org/a/b.pth s3://bucket/x", "https://example.org/a/b.pth s3://bucket/x"),
        ("</pre> / //", "</pre> / //"),
    ],
)
def test_paths_are_shortened(text, shown):
    assert shorten_paths(text) == shown


def test_transfers(finished, copy):
    page = page_of(finished)
    text = page.text.partition("Transfer MAE pre-training")[2]
    columns = "run config weights of this run iterations status"
    assert text.startswith(f" {columns} mae mae_tiny_scenes.py")
    assert "model_final.pth 2 finished" in text
    # Where a run was moved to, its old place counts.
    assert "model_final.pth 2 finished" in page_of(copy, finished.parent / "mae").text
    # Given, but of another run.
    assert "no: random weights" in page_of(finished.parent / "mae", finished).text


def test_a_prolonged_run(runs, finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "output/rmae"))
    watch = ("train.vis_period=2", "train.eval_period=0")
    runs.train(folder, *watch, "train.max_iter=8", resume=True)
    page = page_of(folder)
    assert "8 of 8" in page.text and "resumed at iteration 6" in page.text
    assert page.text.count("rmae-d2 train") == 3 and "--resume" in page.text
    assert re.findall(r"after (\d+) iterations", page.text) == ["2", "4", "6", "8"]


def test_a_killed_run(copy):
    lines = (copy / "run.jsonl").read_text().splitlines(keepends=True)
    cut = next(i for i, x in enumerate(lines) if '"step"' in x and '"iteration": 4' in x)
    (copy / "run.jsonl").write_text("".join(lines[:cut]) + lines[cut][:50])
    (copy / "reconstruction.png").unlink()
    (copy / "samples/reconstruction_0000006.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    page = page_of(copy)
    assert "unfinished after 4 iterations" in page.text and "4 of 6" in page.text
    assert "it was killed, or goes on" in page.text
    assert f"run.jsonl: line {cut + 1} is not whole and is left out" in page.text
    assert "reconstruction_0000006.png: not a picture that can be read" in page.text
    assert len(page.images) == 2


def test_a_failed_run(copy):
    EventWriter(copy).write("start", arguments={"config_file": "/a/mine.py", "opts": ["x=/b/c d"]})
    writer = EventWriter(copy)
    writer.write("skipped", file="/home/me/a.jpg", reason="no image")
    writer.write("error", type="ValueError", text="not of /home/me/x")
    writer.write("error", text="rank 1 (host) was lost: it is gone")
    page = page_of(copy)
    assert "failed: rank 1 (host) was lost" in page.text and "a.jpg: no image" in page.text
    assert "--config-file …/mine.py 'x=/b/c d'" in page.text and "/home/me" not in page.text


@pytest.mark.parametrize(
    "absent, said",
    [
        ("config.yaml", "What differs from configs/demo"),
        ("log.txt", "What differs from configs/demo"),
        ("run.jsonl", "What differs from its base is not recorded"),
        ("samples", "the run's last picture"),
    ],
)
def test_a_run_without(copy, absent, said):
    path = copy / absent
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = page_of(copy)
    assert said in page.text and "R-MAE pre-training" in page.text


@pytest.mark.parametrize("alone", ["config.yaml", "run.jsonl", "metrics.json"])
def test_a_run_with_nothing_but(finished, tmp_path, alone):
    (tmp_path / "run").mkdir()
    shutil.copy(finished / alone, tmp_path / "run")
    assert "No pictures" in page_of(tmp_path / "run").text


def test_a_run_of_0_1(tmp_path):
    page = page_of(Path(shutil.copytree(OF_0_1, tmp_path / "rmae")))
    assert "R-MAE pre-training · ViT of 2 blocks" in page.text and "finished" in page.text
    assert "6 of 6" in page.text and "loss_region, last 0.6919" in page.text
    assert "reconstruction/region_iou 0.4736 6 2" in page.text
    assert "runs of 0.1 have that in log.txt alone" in page.text
    assert "started not recorded" in page.text and "device not recorded" in page.text
    assert page.tags.count("svg") >= 8


def test_nothing_of_a_run_is_believed(copy):
    """Text is escaped, tags of YAML are not executed, odd values are left out."""
    (config,) = engine.events(copy, "config")
    (copy / "run.jsonl").unlink()
    executed = copy / "executed"
    text = (copy / "config.yaml").read_text()
    text += f"evil: !!python/object/apply:os.mkdir ['{executed}']\nodd: {json.dumps(HOSTILE)}\n"
    (copy / "config.yaml").write_text(text)
    assert "onerror=alert(2)" in page_of(copy).text
    writer = EventWriter(copy)
    writer.write("start", arguments={"config_file": HOSTILE, "opts": [HOSTILE], "num_gpus": {}})
    writer.write("versions", versions={HOSTILE: HOSTILE})
    changed = {HOSTILE: {"base": HOSTILE, "run": []}, "y": 3}
    writer.write("config", config=config["config"], base=HOSTILE, changed=changed)
    writer.write("setup", model=HOSTILE, parameters=[], images={}, images_a_step=HOSTILE)
    writer.write("resume", iteration=HOSTILE)
    for value in (1.5, 2.5):
        names = (f"loss{HOSTILE}", f"{HOSTILE}/x")
        values = dict.fromkeys(names, value) | {"text": HOSTILE, "many": 10**400}
        writer.write("step", iteration=value, values=values)
        writer.write("evaluation", iteration=value, results={f"knn/{HOSTILE}": value})
    writer.write("warning", text=f"{HOSTILE} /home/somebody/secret/photo.jpg")
    writer.write("step", iteration=[1], values=[2])
    writer.write("error", type=[HOSTILE], text={})
    with (copy / "run.jsonl").open("a") as file:
        file.write('[1]\n{"event": 3}\n{"event": "end", "time": 7}\n\x00\x00\n')
    page = page_of(copy)
    assert not executed.exists()
    assert page.text.replace(" ", "").count(HOSTILE.replace(" ", "")) >= 10
    assert "secret" not in page.text and "…/photo.jpg" in page.text


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 3, 10**18, 10**400, 10**4200, 1e308, math.inf, math.nan, "", "NaN"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = {
    "start": ("time", "arguments", "launched"),
    "config": ("config", "base", "changed"),
    "setup": ("model", "device", "precision", "parameters", "images", "images_a_step"),
    "step": ("iteration", "values"),
    "evaluation": ("iteration", "results"),
    "checkpoint": ("iteration",),
    "resume": ("iteration",),
    "versions": ("versions",),
    "warning": ("text",),
    "skipped": ("file", "reason"),
    "error": ("type", "text"),
    "end": ("time", "outcome", "text"),
}
INNER = (
    "train",
    "model",
    "max_iter",
    "_target_",
    "opts",
    "eval_only",
    "num_gpus",
    "resume",
    "config_file",
    "base",
    "run",
    "x",
    "a/b",
)
EVENTS = st.sampled_from(list(FIELDS)).flatmap(
    lambda kind: st.fixed_dictionaries(
        {"event": st.just(kind)},
        optional={
            name: JSON | st.dictionaries(st.sampled_from(INNER), JSON, max_size=4)
            for name in FIELDS[kind]
        },
    )
)


@given(st.lists(EVENTS, min_size=1, max_size=8))
def test_any_values_of_events_give_a_page(tmp_path_factory, events):
    folder = tmp_path_factory.mktemp("any") / "run"
    folder.mkdir()
    lines = [json.dumps(event) for event in ({"event": "start"}, *events)]
    (folder / "run.jsonl").write_text("\n".join(lines))
    page_of(folder)


def test_values_that_no_run_writes_are_named_and_the_rest_is_shown(copy):
    config = (copy / "config.yaml").read_text()
    huge, deep = f"0x{'f' * 5000}", "[" * 400 + "]" * 400
    laughs = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 30))
    (copy / "config.yaml").write_text(
        re.sub("max_iter: \\d+", f"max_iter: {huge}", config)
        + f"l0: &l0 [1]\n{laughs}own: &o [*o]\n"
    )
    with (copy / "run.jsonl").open("a") as file:
        for values in (f'"parameters": {"9" * 4000}', f'"model": {deep}', '"a": ' + "[" * 100_000):
            file.write(f'{{"event": "setup", {values}}}\n')
        file.write(
            f'{{"event": "config", "config": {{"a": {deep}}}, "changed": {{"k": {deep}}}}}\n'
        )
        file.write(f'{{"event": "step", "iteration": {"9" * 5000}}}\n')
    page = page_of(copy)
    assert "values in 3 events are not shown" in page.text
    assert page.text.count("is not whole and is left out") == 2
    assert page.tags.count("svg") >= 8 and page.images
    (copy / "run.jsonl").unlink()
    assert page_of(copy).images


def test_pictures_of_any_size(copy):
    Image.new("1", (30_000, 30_000)).save(copy / "samples/reconstruction_0000001.png")
    Image.new("1", (30_000, 1)).save(copy / "samples/reconstruction_0000003.png")
    Image.new("1", (1, 30_000)).save(copy / "samples/reconstruction_0000005.png")
    Image.new("1", (1, 70_000)).save(copy / "samples/reconstruction_0000007.png")
    page = page_of(copy)
    for number in (1, 7):
        assert f"reconstruction_000000{number}.png: not a picture that can be read" in page.text
    assert {(1600, 1), (1, 30_000)} <= {image.size for image in page.images}


def test_links_out_of_the_run_are_not_followed(copy, tmp_path):
    secret = tmp_path / "secret"
    (secret / "samples").mkdir(parents=True)
    picture = secret / "samples/reconstruction_0000009.png"
    Image.new("RGB", (9, 7)).save(picture)
    (secret / "secret.txt").write_text("password: 1234\n")
    (copy / "config.yaml").rename(copy / "own.yaml")
    for name, target in (
        ("config.yaml", secret / "secret.txt"),
        ("metrics.json", secret / "secret.txt"),
        ("reconstruction.png", picture),
        ("samples/reconstruction_0000009.png", picture),
        ("samples/reconstruction_0000003.png", "reconstruction_0000002.png"),  # its own
    ):
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to(target)
    (event,) = engine.events(copy, "config")
    lines = (copy / "run.jsonl").read_text().splitlines()
    (copy / "run.jsonl").write_text("\n".join(x for x in lines if json.loads(x) != event))
    page = page_of(copy)
    assert "password" not in page.text
    for name in ("config.yaml", "metrics.json", "reconstruction.png", "reconstruction_0000009.png"):
        assert f"{name}: not read, it is a link out of the run's folder" in page.text
    assert len(page.images) == 4 and all(image.size != (9, 7) for image in page.images)
    shutil.rmtree(copy / "samples")
    (copy / "samples").symlink_to(secret / "samples")
    assert not page_of(copy).images
    (copy / "run.jsonl").rename(secret / "run.jsonl")
    (copy / "run.jsonl").symlink_to(secret / "run.jsonl")
    with pytest.raises(UserError, match="run.jsonl: not read, it is a link out"):
        write_report(copy)
    linked = tmp_path / "output/link"
    (copy / "own.yaml").rename(copy / "config.yaml")
    linked.symlink_to(copy)  # the run itself may be one
    assert "r-mae" in page_of(linked).text.lower()


def test_the_page_replaces_links_and_nothing_else(copy, tmp_path, capsys):
    other = tmp_path / "other.html"
    other.write_text("mine")
    (copy / "report.html").symlink_to(other)
    assert commands.run(["report", str(copy)]) == 0
    assert other.read_text() == "mine" and not (copy / "report.html").is_symlink()
    for kind in engine.SPECIAL:
        engine.put_special(tmp_path / kind, kind)
        capsys.readouterr()
        assert commands.run(["report", str(copy), "--output", str(tmp_path / kind)]) == 1
        assert f"it is a {kind}, not a file" in capsys.readouterr().err
    engine.put_special(copy / "samples/reconstruction_0000003.png", "FIFO")
    assert "reconstruction_0000003.png: it is a FIFO" in page_of(copy).text


def test_files_that_cannot_be_read(copy):
    (copy / "run.jsonl").unlink()
    (copy / "metrics.json").write_text("7\n")
    assert "metrics.json: not Detectron2's" in page_of(copy).text
    (copy / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"not a run.*\(metrics\.json.*; config\.yaml: not YAML"):
        write_report(copy)


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: [", "not YAML"),
        ("- 1", "it has no keys"),
        ("", "it has no keys"),
        ("a: \xe9", "not YAML"),
        ("a: " + "[" * 900, "not YAML"),
        ("a: 2020-99-99", "not YAML"),
        ("a: " + "x" * (1 << 20), "over 1 MiB"),
    ],
    ids=["cut", "list", "empty", "latin-1", "too deep to read", "no date", "large"],
)
def test_no_config(tmp_path, text, said):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=said) as error:
        read_config(path, tmp_path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_no_run(tmp_path, capsys, copy):
    def call(*arguments):
        code = commands.run(["report", *map(str, arguments)])
        return code, capsys.readouterr().err

    (tmp_path / "other").mkdir()
    (tmp_path / "other/log.txt").write_text("nothing of ours\n")
    for folder, said in (("absent", "no such folder"), ("other", "not a run, nothing was found")):
        code, message = call(tmp_path / folder)
        assert code == 1 and len(message.splitlines()) == 1
        assert message.startswith(f"error: {tmp_path / folder}: ") and said in message
    with pytest.raises(UserError):
        read_folder(tmp_path)
    assert call(copy, tmp_path / "other")[0] == 1
    assert call(copy)[0] == 0 and (copy / "report.html").exists()
