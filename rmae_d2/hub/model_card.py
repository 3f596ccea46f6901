"""A trained model's card, from its run's own events: data, steps, results, command, versions."""

import json
import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from torch import nn

from .. import __version__
from ..errors import UserError
from ..modeling.block_features import encoder_of
from ..report.run_record import Run, Start, read_folder
from ..tables import table

_TASKS = {
    "detection": "object-detection",
    "segmentation": "image-segmentation",
    "classification": "image-classification",
}


def model_card(model: nn.Module, cfg: DictConfig, folder: Path | None, name: str) -> str:
    """Write the card as Markdown with the hub's YAML header. Folders of the training machine are left out.

    Args:
        cfg: its ``model`` builds the model.
        folder: of the model's run; without a run.jsonl, the card says so.
        name: for the title.
    """
    run = _run_of(cfg, folder)
    task = next((task for word, task in _TASKS.items() if word in run.kind), None)
    facts = {
        "library_name": "rmae_d2",
        "pipeline_tag": task or "image-feature-extraction",
        "tags": ["rmae_d2", "vision-transformer", run.kind],
    }
    parts = [
        f"---\n{yaml.safe_dump(facts, sort_keys=False)}---",
        f"# {name}\n\n{run.kind[:1].upper()}{run.kind[1:]}, {_network(model)}.",
        f"```python\nimport rmae_d2\n\nmodel = rmae_d2.load({name!r})  # this folder, or org/name\n"
        "(last,) = rmae_d2.features(model, images)\n```",
        "## Training",
        table(["", ""], [[key, value] for key, value in _training(run)], left=(0, 1)),
    ]
    if run.trained:
        parts.append(f"```sh\n{_command(run.trained[0])}\n```")
    parts += ["## Results", _results(run)]
    parts += [
        f"Written by rmae_d2 {__version__} from the run's events. Licence, limits and uses: not stated."
    ]
    return "\n\n".join(parts) + "\n"


def _run_of(cfg: DictConfig, folder: Path | None) -> Run:
    config: Any = OmegaConf.to_container(cfg)
    try:
        run = read_folder(folder) if folder is not None else None
    except UserError:
        run = None
    if run is not None and run.events:
        return run
    config["model"]["_target_"] = _name(config["model"].get("_target_"))
    return Run(folder or Path(), [], config, None, [])


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__qualname__", "")


def _network(model: nn.Module) -> str:
    count = sum(p.numel() for p in model.parameters()) / 1e6
    try:
        net: Any = encoder_of(model)
    except UserError:
        return f"{count:.1f} million parameters"
    size = f"{len(net.blocks)} blocks, width {net.patch_embed.proj.out_channels}, patches of {net.patch_size}"
    return f"on a ViT of {size}; {count:.1f} million parameters"


def _training(run: Run) -> Iterator[tuple[str, str]]:
    """Facts as (name, value) pairs."""
    yield "data", _data(run.get("dataloader.train.dataset"))
    yield "steps", f"{run.done or 'not recorded'} of {run.max_iter or 'no recorded number'}"
    yield "batch", str(run.get("dataloader.train.total_batch_size") or "not recorded")
    yield "begins with", _without_folder(run.init_checkpoint) or "random weights"
    if not run.trained:
        yield "events", "none: the model's folder has no run.jsonl with a training"
        return
    hours = sum(start.seconds for start in run.trained) / 3600
    yield "begun", run.trained[0].date
    yield "hours", f"{hours:.2f} in {len(run.trained)} start(s); {run.status}"
    found = run.trained[-1].said("versions").get("versions")
    if isinstance(found, dict):
        yield "versions", ", ".join(f"{package} {number}" for package, number in found.items())


def _data(node: Any) -> str:
    """Describe a data set's config node in one line, leaving out unset values."""
    if not isinstance(node, dict):
        return "not recorded"
    plain = {
        k: v for k, v in node.items() if k != "_target_" and v not in (None, "", [], {}, False)
    }
    return _without_folder(json.dumps(plain, default=str).strip("{}").replace('"', ""))


def _results(run: Run) -> str:
    """A table with the last value of each result."""
    rows = []
    for name, points in sorted(run.results.items()):
        at, value = points[-1]
        data = ", ".join(map(_without_folder, run.measured_on.get(name, [])))
        rows.append([name, f"{value:.4g}", data or None, None if math.isnan(at) else int(at)])
    if not rows:
        return "None recorded."
    return table(["result", "value", "measured on", "after step"], rows, left=(0, 2))


def _command(start: Start) -> str:
    file = str(start.arguments.get("config_file", "CONFIG"))
    words = ["--config-file", _without_folder(file), *map(_without_folder, start.overrides)]
    return shlex.join(["rmae-d2", "train", *words])


def _without_folder(text: str) -> str:
    """Reduce absolute paths after =, a space or a bracket to their last component."""
    words = text.replace("=", "= ").replace("[", "[ ").replace(",", " ,").split(" ")
    kept = [os.path.basename(w.rstrip("/")) if w.startswith("/") else w for w in words]
    return " ".join(kept).replace("= ", "=").replace("[ ", "[").replace(" ,", ",")
