"""Every command line of README and docs is one that the program takes: its options, config and overrides."""

import re
import shlex
from importlib import import_module

import pytest

from rmae_d2.commands import COMMANDS
from rmae_d2.commands.options import Parser, take_overrides_out
from rmae_d2.config import apply_overrides, load_config
from tests.helpers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def command_lines():
    """(page, words) of each `rmae-d2 ...` in a block of shell."""
    found = []
    for page in PAGES:
        text = page.read_text()
        indented = re.findall(r"^    (rmae-d2 (?:.*\\\n)*.*)", text, re.MULTILINE)
        for block in [*re.findall(r"```sh\n(.*?)```", text, re.DOTALL), *indented]:
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                for words in _programs(line):
                    if words[0] == "rmae-d2":
                        found.append(
                            pytest.param(words[1:], id=f"{page.stem}: {' '.join(words)[:90]}")
                        )
    return found


def _programs(line):
    """The words of each command of a line; comments end it, variables keep their names."""
    words = shlex.split(line.replace("$arch", "base").replace("$", "VAR_"), comments=True)
    while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        words = words[1:]
    return [words] if words else []


def _expanded(word):
    """What the shell makes of {train,test}."""
    match = re.search(r"\{([\w,]+)\}", word)
    if match is None or ":" in word:
        return [word]
    return [w for part in match[1].split(",") for w in _expanded(word.replace(match[0], part, 1))]


@pytest.mark.parametrize("words", command_lines())
def test_the_program_takes_it(words):
    name = next(n for k in (2, 1) if (n := " ".join(words[:k])) in COMMANDS)
    rest = [w for word in words[len(name.split()) :] for w in _expanded(word)]
    module = import_module(f"rmae_d2.commands.{name.replace('-', '_').replace(' ', '_')}")
    parser = Parser(f"rmae-d2 {name}")
    module.arguments(parser)
    parse = parser.parse_args if name == "benchmark" else parser.parse_intermixed_args
    try:
        args = take_overrides_out(parse(rest))
    except SystemExit:
        pytest.fail(f"not taken: {shlex.join(rest)}")
    config = getattr(args, "config_file", None)
    given = getattr(args, "opts", None) or getattr(args, "overrides", None) or []
    if name in ("train", "analyze") and config and not config.startswith("output/"):
        apply_overrides(load_config(config), [o for o in given if "VAR_" not in o])
    elif config and not config.startswith("output/"):
        load_config(config)


def test_there_are_many():
    assert len(command_lines()) > 60
