"""What `rmae-d2 evaluate-regions` does: the regions of several sources, compared with instances."""

import json as json_module
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.datasets import detection_dataset
from ..data.images import read_image
from ..errors import UserError
from ..evaluation.region_quality import LIMITS, RLE, RegionQuality, encoded
from ..regions import EncodedRecord, RegionRecord
from ..regions.sources.annotations import InstanceSource
from ..tables import table
from ..visualization.regions import draw_regions
from ..visualization.sheets import Picture, SheetRow, contact_sheet, save_picture
from .proposals import ProposalSource

logger = logging.getLogger(__name__)


def measure_regions(
    sources: Mapping[str, Callable[..., Any]],
    *,
    names: Sequence[str] = (),
    json: str | None = None,
    root: str | None = None,
    max_images: int = 0,
    output: Path | None = None,
    pictures: int = 0,
) -> dict[str, Any]:
    """Compares the regions of each source with the instance masks of a data set, classes aside.

    Args:
        sources: region sources by the name under which they are listed. The best of an image's regions, for
            average recall, are the largest; of proposals, those of the highest scores.
        names: registered datasets with instance masks, used where there is no ``json``.
        json, root: own data in COCO's format, and the folder of its images.
        max_images: the first so many with instances; 0 for all.
        output: folder to write ``regions.json`` to, and ``regions.png``.
        pictures: the first so many images are drawn.

    Returns:
        ``data``; ``sources``: for each name what `RegionQuality.evaluate` gives, and ``seconds``, the mean
        wall-clock time per image without the first one, of a single process.

    Raises:
        UserError: no instance masks, or a source that refuses an image.
    """
    dicts = detection_dataset(names, json=json, root=root, filter_empty=True, masks=True)
    dicts = dicts[:max_images] if max_images else dicts
    quality = {name: RegionQuality() for name in sources}
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    instances = InstanceSource()
    for number, sample in enumerate(dicts, 1):
        image = read_image(sample["file_name"])
        truth, _ = encoded(instances(sample, image))
        for name, source in sources.items():
            start = time.perf_counter()
            regions, scores = _regions(source, sample, image)
            seconds[name].append(time.perf_counter() - start)
            quality[name].process(regions, scores, truth)
        if number % 100 == 0:
            logger.info("%d of %d images", number, len(dicts))
    data = json or ", ".join(names)
    figures = {}
    for name, seen in quality.items():
        try:
            figures[name] = seen.evaluate()
        except UserError as error:
            raise UserError(f"{data}: {error}") from error
        after_first = seconds[name][1:] or seconds[name]
        figures[name]["seconds"] = sum(after_first) / len(after_first)
    result = {"data": data, "sources": figures}
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "regions.json").write_text(json_module.dumps(result, indent=1) + "\n")
        if pictures:
            save_picture(_sheet(sources, dicts[:pictures]), output / "regions.png")
    return result


def _sheet(sources: Mapping[str, Callable[..., Any]], dicts: Sequence[dict[str, Any]]) -> Picture:
    """A row per image: its instances, then each source's regions, of several label planes the middle one."""
    shown: dict[str, Callable[..., Any]] = {"instances": InstanceSource(), **sources}
    rows = []
    for sample in dicts:
        image = read_image(sample["file_name"])
        records = [_decoded(source(sample, image)) for source in shown.values()]
        tiles = [draw_regions(image, record) for record in records]
        rows.append(SheetRow("", [each[len(each) // 2] for each in tiles]))
    return contact_sheet(rows, list(shown))


def _regions(source: Callable[..., Any], sample: Any, image: Any) -> tuple[list[RLE], Any]:
    """The regions of an image, the best first, and numbers that say so."""
    if isinstance(source, ProposalSource):
        found = source.propose(image)
        return found.masks, found.scores
    return encoded(_decoded(source(sample, image)))


def _decoded(record: RegionRecord | EncodedRecord) -> RegionRecord:
    return record.decode() if isinstance(record, EncodedRecord) else record


def regions_table(sources: Mapping[str, Mapping[str, float]]) -> str:
    """The figures of `measure_regions` as a Markdown table; overlaps and recalls times 100."""
    headers = ["regions", "per image", "best IoU", "IoU above 0.5"]
    headers += [f"AR@{n}" for n in LIMITS] + ["s per image"]
    rows = [
        [
            name,
            f"{found['regions']:.1f}",
            *(
                f"{100 * found[key]:.1f}"
                for key in ("best_iou", "recall_50", *(f"ar@{n}" for n in LIMITS))
            ),
            f"{found['seconds']:.2f}",
        ]
        for name, found in sources.items()
    ]
    return table(headers, rows)
