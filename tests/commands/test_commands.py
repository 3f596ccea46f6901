"""What all commands have in common: names, help, errors, and what is not imported for them.

Also all that there is to test of modules that are options and one call: demo, inspect, options, report,
scenes and train. What they call has tests of its own, and so have benchmarks/* in test_benchmark.py.
"""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rmae_d2 import __version__, commands
from rmae_d2.commands.options import place_output
from rmae_d2.errors import UserError
from tests.helpers import ROOT

TOOLS = ROOT / "tools"
#: Modules none of which a command line that does nothing may import.
HEAVY = {"torch", "numpy", "detectron2", "omegaconf", "PIL", "yaml", "scipy", "matplotlib", "timm"}


def python(code, cwd):
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help(cli, name):
    code, out, _ = cli(*name.split(), "--help")
    assert code == 0 and out.startswith(f"usage: rmae-d2 {name} ")


@pytest.mark.parametrize("name", ["step", "vitdet", "regions", "loader", "startup"])
def test_help_of_benchmarks(cli, name):
    code, out, _ = cli("benchmark", name, "--help")
    assert code == 0 and "--repeat" in out


def test_what_is_there(cli):
    assert cli("--version") == (0, f"rmae_d2 {__version__}\n", "")
    _, out, _ = cli("--help")
    assert all(f"  {name} " in out for name in commands.COMMANDS)
    _, out, _ = cli("visualize", "--help")
    assert "visualize attention" in out and "doctor" not in out
    assert cli()[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["trian"], 2, "no command 'trian'; did you mean train?"),
        (["visualize", "masks"], 2, "did you mean visualize masking"),
        (["xyz"], 2, "rmae-d2 --help names them"),
        (["train"], 2, "--config-file"),
        (["train", "--config-file", "demo/rmae_tiny_scnes.py"], 1, "mean demo/rmae_tiny_scenes.py"),
        (["analyze", "--config-file", "pretrain/rmae_vitd.py"], 1, "pretrain/rmae_vitb.py"),
        (["analyze", "--table", "pretrain/rmae_vitd.py"], 1, "pretrain/rmae_vitb.py"),
        (
            ["train", "--config-file", "demo/rmae_tiny_scenes.py", "trian.x=1"],
            1,
            "trian.x: unknown",
        ),
    ],
)
def test_mistakes(cli, words, code, message):
    found, out, error = cli(*words)
    assert (found, out) == (code, "") and message in error
    assert code == 2 or error.startswith("error: ")


#: Command lines that lack nothing but a sound number.
NUMBERS = {
    "train": ["--config-file", "demo/rmae_tiny_scenes.py"],
    "submit": ["--config-file", "demo/rmae_tiny_scenes.py"],
    "sweep": ["--config-file", "demo/rmae_tiny_scenes.py", "--output", "sweep"],
    "regions": ["--output", "store"],
    "pack": ["--output", "store"],
    "inspect": ["store"],
    "scenes": [],
    "predict": ["--config-file", "x", "--weights", "x", "--input", "x", "--output", "x"],
    "embed": ["x", "--output", "x"],
    "demo": ["--weights", "x"],
    "evaluate-interactive": ["--weights", "x"],
    "visualize reconstruction": ["--weights", "x", "--input", "x"],
    "visualize attention": ["--weights", "x", "--input", "x"],
    "visualize masking": ["--weights", "x", "--input", "x"],
    "convert": ["--input", "x", "--output", "x", "--to", "mae"],
    **{
        f"benchmark {name}": []
        for name in ("step", "vitdet", "regions", "loader", "index", "startup")
    },
}


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_below_its_range_is_taken(cli, name, tmp_path, monkeypatch):
    """Of any option that takes one; and nothing is written."""
    monkeypatch.chdir(tmp_path)
    benchmark = name.startswith("benchmark")
    file = "benchmark" if benchmark else name.replace("-", "_").replace(" ", "_")
    module = importlib.import_module(f"rmae_d2.commands.{file}")
    parser = argparse.ArgumentParser()
    module.arguments(parser)
    if benchmark:
        parser = parser._subparsers._group_actions[0].choices[name.split()[1]]
    numbers = [a for a in parser._actions if a.type not in (None, Path, str)]
    assert numbers
    for action in numbers:
        option = action.option_strings[0]
        code, _, error = cli(*name.split(), *NUMBERS[name], f"{option}=-1")
        assert code == 2 and f"argument {option}" in error, option
        assert "-1: " in error or "invalid choice: -1" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--config-file", "demo/rmae_tiny_scenes.py", "--num_gpus", "1"], "--num-gpus"),
        (["regions", "--output", "x", "--worker_s=3"], "--workers"),
        (["benchmark", "step", "--repaet", "3"], "--repeat"),
        (["scenes", "--xyz"], "no such option"),
    ],
)
def test_options_that_are_not_there(cli, words, says):
    code, _, error = cli(*words)
    hint = says if says == "no such option" else f"did you mean {says}"
    assert code == 2 and hint in error


OUTPUTS = {
    "train": ["--config-file", "demo/rmae_tiny_scenes.py", "train.output_dir={}"],
    "submit": ["--config-file", "demo/rmae_tiny_scenes.py", "train.output_dir={}"],
    "sweep": ["--config-file", "demo/rmae_tiny_scenes.py", "--output", "{}"],
    "scenes": ["--output", "{}"],
    "scenes ": ["--output", "scenes", "--crops", "{}"],
    "regions": ["--images", "x", "--source", "fh", "--output", "{}"],
    "pack": ["x", "--output", "{}"],
    "inspect": ["x", "--output", "{}"],
    "predict": ["--config-file", "a.py", "--weights", "x", "--input", "x", "--output", "{}"],
    "embed": ["x", "--output", "{}"],
    "evaluate-interactive": ["--weights", "x", "--output", "{}"],
    "visualize reconstruction": ["--weights", "x", "--input", "x", "--output", "{}"],
    "visualize attention": ["--weights", "x", "--input", "x", "--output", "{}"],
    "visualize masking": ["--weights", "x", "--input", "x", "--output", "{}"],
    "visualize metrics": ["x", "--output", "{}"],
    "report": ["x", "--output", "{}"],
    "convert": ["--input", "x", "--to", "mae", "--output", "{}"],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_cannot_be_written_are_told_first(cli, name, tmp_path, monkeypatch):
    """In one line; a file stands where a folder is needed."""
    monkeypatch.chdir(tmp_path)
    for file in ("a.py", "file"):
        (tmp_path / file).write_text("")
    place = tmp_path / "file/below"
    code, out, error = cli(*name.split(), *(word.format(place) for word in OUTPUTS[name]))
    assert (code, out) == (1, "")
    assert error.endswith(f" {place}: {tmp_path / 'file'} is a file, where a folder is needed\n")
    assert error.startswith("error: ") and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.py", "file"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["report", "run"], "run/report.html"),
        (["visualize metrics", "run", "other"], "run/metrics.png"),
        (["visualize masking", "--weights", "run/w.pth", "--input", "x"], "run/masks.png"),
        (
            ["visualize reconstruction", "--weights", "run/w.pth", "--input", "x"],
            "run/reconstructions",
        ),
        (["visualize attention", "--weights", "run/w.pth", "b/w.pth"], "run/attention"),
        (["visualize attention", "--weights", "https://there/w.pth"], "attention"),
        (["evaluate-interactive", "--weights", "w.pth"], "interactive"),
        (["visualize reconstruction", "--input", "run/x.jpg"], "reconstructions"),
        (["visualize masking", "--input", "run/x.jpg"], "masks.png"),
        (["visualize attention", "--input", "run/x.jpg"], "attention"),
        (["evaluate-interactive", "--json", "run/x.json"], "interactive"),
        (["report", "run", "--output", "x.html"], "x.html"),
    ],
)
def test_outputs_lie_beside_what_they_are_made_from(words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    name, *rest = words
    module = importlib.import_module(f"rmae_d2.commands.{name.replace(' ', '_').replace('-', '_')}")
    parser = argparse.ArgumentParser()
    module.arguments(parser)
    args = parser.parse_args(rest)
    place_output(args)
    assert args.output == Path(expected) and "output_rule" not in vars(args)


def test_nothing_heavy_is_imported_to_say_so(tmp_path):
    lines = [["--help"], ["--version"], ["trian"], ["train", "--config-file", "nothing.py"]]
    lines += [[*name.split(), "--help"] for name in commands.COMMANDS]
    code = (
        "import contextlib, io, sys\nfrom rmae_d2 import commands\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        f"    for words in {lines!r}:\n"
        "        with contextlib.suppress(SystemExit): commands.run(words)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    assert python(code, tmp_path) == "[]\n"


def test_only_what_a_user_can_set_right_is_told_in_one_line(cli, monkeypatch):
    from rmae_d2.commands import scenes

    def fail(error):
        def run(args):
            raise error

        monkeypatch.setattr(scenes, "run", run)
        return cli("scenes")

    assert fail(UserError("x: do y")) == (1, "", "error: x: do y\n")
    assert fail(KeyboardInterrupt()) == (130, "", "stopped\n")
    with pytest.raises(ValueError, match="a mistake of ours"):
        fail(ValueError("a mistake of ours"))


def test_tools_are_the_commands_by_their_old_names(tmp_path):
    of_developers = {TOOLS / "release_check.py"}
    for tool in sorted({*TOOLS.glob("*.py")} - of_developers):
        done = subprocess.run(
            [sys.executable, str(tool), "--help"], cwd=tmp_path, capture_output=True, text=True
        )
        name = tool.read_text().split("`rmae-d2 ")[1].split("`")[0]
        assert done.returncode == 0, done.stderr
        own = tool.name if name == "install-detectron2" else f"rmae-d2 {name}"
        assert done.stdout.startswith(f"usage: {own}") or name == "install-detectron2"


def test_choices_are_those_of_the_library():
    """Written out in the commands, which import nothing."""
    from rmae_d2.checkpoint import TARGETS
    from rmae_d2.commands import (
        benchmark,
        convert,
        embed,
        evaluate_interactive,
        visualize_attention,
        visualize_reconstruction,
    )
    from rmae_d2.commands.benchmarks import common, step
    from rmae_d2.evaluation.interactive import PROTOCOLS
    from rmae_d2.inference import features, reconstruction_pictures, region_views
    from rmae_d2.modeling import PRECISIONS, VIT_SIZES

    assert set(convert.TARGETS) == set(TARGETS)
    assert evaluate_interactive.PROTOCOLS == PROTOCOLS
    assert evaluate_interactive.RESOLUTIONS == region_views.RESOLUTIONS
    assert set(visualize_attention.NORMALIZATIONS) == set(features.NORMALIZATIONS)
    assert set(embed.NORMALIZATIONS) == set(features.NORMALIZATIONS)
    assert visualize_reconstruction.SOURCES == reconstruction_pictures.SOURCES
    assert set(benchmark.SIZES) == set(VIT_SIZES) and set(benchmark.PRECISIONS) == set(PRECISIONS)
    assert (*step.VARIANTS, *step.PLAIN) == benchmark.VARIANTS
    assert set(benchmark.CLOCKS) == set(common.CLOCKS)


def test_registered_when_detectron2_is_imported(tmp_path):
    """And not before; in a process of its own, where nothing has imported it yet."""
    code = (
        "import json, sys, rmae_d2\n"
        "before = 'torch' in sys.modules\n"
        "from detectron2.data import DatasetCatalog\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "rmae_d2.data.read_image, rmae_d2.modeling.RMAE\n"
        "print(json.dumps([before, 'RMAE' in META_ARCH_REGISTRY, 'scenes_train' in DatasetCatalog]))"
    )
    assert json.loads(python(code, tmp_path)) == [False, True, True]
