"""What `rmae-d2 visualize attention --evaluate` does: the share of attention on the query's own object."""

import json as json_module
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import read_image
from ..data.datasets.detection import detection_dataset
from ..errors import UserError
from ..evaluation.attention_share import AttentionShare, paired_difference, patch_cover
from ..regions import InstanceSource
from .attention_models import NamedViT, check_layer, describe_layer, patch_attention

logger = logging.getLogger(__name__)

_DEFINITION = (
    "share: of the attention of the patches that an instance covers by half or more, the part that falls on "
    "that instance (patches by the part of them it covers; without the cls token), mean over its patches, "
    "then over the instances. area: what uniform attention would give. elsewhere: the part of the attention "
    "of patches that the instance does not touch. position: what the model's mean attention at each "
    "displacement would give, whatever is in the picture. Errors: standard errors over instances, those of "
    "one image taken together."
)


def measure_attention(
    models: Sequence[NamedViT],
    *,
    names: Sequence[str] = (),
    json: str | None = None,
    root: str | None = None,
    layer: str = "-1",
    head: int | None = None,
    side: int | None = None,
    max_images: int = 0,
    seed: int = 0,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measures models, and one of random weights of each size among them.

    What is measured: :mod:`rmae_d2.evaluation.attention_share`.

    Args:
        models: see :func:`.load_models`.
        names: registered datasets with instance masks, used where there is no ``json``.
        json, root: own data in COCO's format, and the folder of its images.
        layer, head: see :func:`.patch_attention`.
        side: shorter side of what the models see, see :meth:`.NamedViT.prepare`.
        max_images: the first so many with instances; 0 for all.
        seed: of random weights.
        output: file to write the result to.

    Returns:
        ``data``, ``layer``, ``definition``; ``models``, for each its ``name``, ``network``, ``attention`` and
        what :meth:`.AttentionShare.evaluate` gives; ``differences`` of the first model to each other over the
        same instances, of the share and of what it is more than elsewhere's.

    Raises:
        UserError, UserError, AnnotationError: for a dataset or layer that is not there.
        ImageReadError: for a broken photo.
    """
    check_layer(layer, head)
    dicts = detection_dataset(names, json=json, root=root, filter_empty=True, masks=True)
    dicts = dicts[:max_images] if max_images else dicts
    compared = [*models, *_random_ones(models, seed)]
    collected = [AttentionShare() for _ in compared]
    source = InstanceSource()
    for number, sample in enumerate(dicts):
        image = read_image(sample["file_name"])
        record = source(sample, image)
        masks = record.select(np.arange(len(record.regions())))
        for model, share in zip(compared, collected, strict=True):
            pixels = model.prepare(image, side)
            weights = patch_attention(model, pixels, layer, head).double().numpy()
            patches = weights[model.vit.prefix :, model.vit.prefix :]
            cover = patch_cover(masks, model.vit.grid(pixels))
            share.process(sample["file_name"], patches, cover)
        if (number + 1) % 100 == 0:
            logger.info("%d of %d images", number + 1, len(dicts))
    result = _result(compared, collected, json or ", ".join(names), layer, head)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json_module.dumps(result, indent=1) + "\n")
    return result


def _random_ones(models: Sequence[NamedViT], seed: int) -> list[NamedViT]:
    """One of each size and normalization."""
    first = {(model.size, model.normalization): model for model in reversed(models)}
    chosen = list(reversed(first.values()))
    names = ["random weights"] if len(chosen) == 1 else [f"random, as {m.name}" for m in chosen]
    return [m.with_random_weights(name, seed) for m, name in zip(chosen, names, strict=True)]


def _result(
    compared: Sequence[NamedViT],
    collected: Sequence[AttentionShare],
    data: str,
    layer: str,
    head: int | None,
) -> dict[str, Any]:
    try:
        entries = [
            {
                "name": model.name,
                "network": str(model.size),
                "attention": describe_layer(model, layer, head),
                **share.evaluate(),
            }
            for model, share in zip(compared, collected, strict=True)
        ]
        differences = [
            {
                "value": "share - elsewhere" if beyond else "share",
                "of": compared[0].name,
                "to": model.name,
                **paired_difference(collected[0].shares(beyond), other.shares(beyond)),
            }
            for beyond in (False, True)
            for model, other in zip(compared[1:], collected[1:], strict=True)
            if collected[0].shares(beyond).keys() & other.shares(beyond).keys()
        ]
    except UserError as error:
        raise UserError(f"{data}: {error}") from error
    return {
        "data": data,
        "layer": layer,
        "definition": _DEFINITION,
        "models": entries,
        "differences": differences,
    }


def share_table(result: dict[str, Any]) -> str:
    """The result of :func:`measure_attention` as lines to print."""
    width = max(len(entry["name"]) for entry in result["models"])
    lines = [
        f"{result['data']}: attention on the query's own instance, %",
        f"{'model':{width}} {'share':>13} {'area':>7} {'elsewhere':>10} {'position':>9} "
        f"{'share-elsewhere':>16} {'share-position':>15}  instances",
    ]
    for entry in result["models"]:
        lines.append(
            f"{entry['name']:{width}} {_percent(entry['share'], entry['share_error']):>13}"
            f" {_percent(entry['area']):>7} {_percent(entry['elsewhere']):>10}"
            f" {_percent(entry['position']):>9}"
            f" {_percent(entry['beyond_elsewhere'], entry['beyond_elsewhere_error'], True):>16}"
            f" {_percent(entry['beyond_position'], entry['beyond_position_error'], True):>15}"
            f"  {entry['instances']} ({entry['too_small']} too small)"
        )
    for entry in result["differences"]:
        value = _percent(entry["difference"], entry["error"], sign=True)
        lines.append(
            f"{entry['value']}: {entry['of']} less {entry['to']}: {value} (paired, {entry['instances']})"
        )
    return "\n".join([*lines, result["definition"]])


def _percent(value: float | None, error: float | None = None, sign: bool = False) -> str:
    if value is None:
        return "-"
    text = f"{100 * value:{'+' if sign else ''}.2f}"
    return text if error is None else f"{text} ± {100 * error:.2f}"
