"""A hook of mkdocs: pages made of the commands' own help, the configs' headers and the docstrings."""

import ast
import os
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from rmae_d2 import errors
from rmae_d2.commands import COMMANDS
from rmae_d2.commands.options import Parser

CONFIGS = Path(__file__).parents[1] / "configs"
PACKAGE = Path(__file__).parents[1] / "rmae_d2"

#: Errors that a user can set right, see `rmae_d2.errors`, and those of single parts.
RAISED = {
    *(name for name in vars(errors) if name.endswith("Error")),
    "RefusedError",
    "InstallError",
    "UsageError",
}

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
    made = {"commands": _commands, "configs": _configs, "python": _python, "messages": _messages}
    for name, page in made.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
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


def _messages() -> str:
    parts = [
        "# Messages",
        "Every error that names its own remedy, by the part of the program that raises it; `…` stands for a "
        "value of yours. Search this page for words of a message; [Troubleshooting](../troubleshooting.md) "
        "says more about the frequent ones.",
    ]
    for path in sorted(PACKAGE.rglob("*.py")):
        found = dict.fromkeys(messages(ast.parse(path.read_text(encoding="utf-8"))))
        if found:
            parts += [f"## {path.relative_to(PACKAGE).as_posix()}"]
            parts += ["\n".join(f"- {text}" for text in found)]
    return "\n\n".join(parts)


def messages(module: ast.Module) -> Iterator[str]:
    """The texts of a module's errors of `rmae_d2.errors` and what derives from them, in its order."""
    for function in ast.walk(module):
        if not isinstance(function, ast.FunctionDef):
            continue
        texts = {
            ast.unparse(node.targets[0]): text
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and (text := _text(node.value, {}))
        }
        for node in ast.walk(function):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            given = [_text(arg, texts) for arg in node.exc.args]
            text = " ".join(" ".join(filter(None, given)).split())
            if ast.unparse(node.exc.func) in RAISED and len(re.findall(r"\w\w", text)) > 1:
                yield re.sub(r"([\\`*_<>\[\]])", r"\\\1", text)


def _text(node: ast.expr, texts: Mapping[str, str]) -> str:
    """A string as people see it, with `…` for what is put in; nothing for another expression."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        parts = (
            _text(part, texts) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
        return "".join(parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_text(node.left, texts) or "…") + (_text(node.right, texts) or "…")
    return texts.get(ast.unparse(node), "")


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"
