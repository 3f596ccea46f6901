"""A hook of mkdocs: pages made of the commands' own help, the configs' headers and the docstrings."""

import ast
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from rmae_d2.commands import COMMANDS
from rmae_d2.commands.options import Parser

CONFIGS = Path(__file__).parents[1] / "configs"

REPOSITORY = "https://github.com/rmae-d2/rmae_d2"

#: What code of a user's own calls; ``rmae_d2.load`` and the others of the package itself by their modules.
PUBLIC = {
    "inference.pretrained": ["load"],
    "inference.features": ["features"],
    "inference.detections": ["detections"],
    "hub": ["save_pretrained", "push_to_hub"],
    "inference": ["Predictor", "RegionPromptPredictor"],
    "config.load": ["load_config"],
    "checkpoint": ["load_weights", "load_pretrained"],
    "modeling": ["RMAE", "MaskedViT", "ViT", "RegionBranch"],
    "data": ["RegionDatasetMapper", "read_image"],
    "data.datasets": ["pretrain_dataset", "detection_dataset", "semantic_dataset"],
    "regions": ["RegionRecord", "RegionStore"],
    "regions.sources.felzenszwalb": ["felzenszwalb"],
    "errors": ["UserError"],
}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages; mkdocs calls it."""
    for name, text in (("commands", _commands()), ("configs", _configs()), ("python", _python())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to the repository's other files, which the site does not have; mkdocs calls it."""
    depth = page.file.src_path.count("/") + 1
    return markdown.replace(f"]({'../' * depth}", f"]({REPOSITORY}/blob/main/")


def _commands() -> str:
    os.environ["COLUMNS"] = "100"  # argparse wraps by it
    parts = ["# Commands", "Each one's own `--help`."]
    for name, summary in COMMANDS.items():
        module = import_module(f"rmae_d2.commands.{name.replace('-', '_').replace(' ', '_')}")
        parser = Parser(f"rmae-d2 {name}")
        module.arguments(parser)
        about = (module.__doc__ or "").strip()
        parts += [f"## {name}", summary[0].upper() + summary[1:] + ".", _fenced(about)]
        parts += [_fenced(parser.format_help())]
    return "\n\n".join(parts)


def _configs() -> str:
    parts = ["# Config headers", "What each config says of itself."]
    for path in sorted(CONFIGS.rglob("*.py")):
        header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        parts += [f"## {path.relative_to(CONFIGS).as_posix()}", _fenced(header or "")]
    return "\n\n".join(parts)


def _python() -> str:
    names = [f"rmae_d2.{module}.{name}" for module, names in PUBLIC.items() for name in names]
    return "\n\n".join(["# Python", *(f"::: {name}" for name in names)])


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"
