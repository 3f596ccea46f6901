"""Inspect a data set: its contents, and every problem that training would run into later."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..annotations.coco import Annotations, read_annotations
from ..annotations.formats.addresses import address_of
from ..annotations.formats.recognise import FORMATS, recognise
from ..annotations.image_labels import ImageLabels, read_image_labels
from ..data import pretrain_dataset
from ..data.datasets.detection import files_of
from ..errors import AnnotationError, examples
from ..photos.sources import images_from
from ..tables import table
from .duplicates import alike, same_files
from .labels import by_folder, class_counts, look_at_labels
from .photos import PhotoFacts, look_at, mean_and_std

logger = logging.getLogger(__name__)

_LISTED = 40
_SHOWN_SIZES = 5


class Finding(NamedTuple):
    """A property shared by a number of images or objects."""

    what: str
    times: int
    such_as: str
    file_name: str = ""  #: an image that shows it


class Inspection(NamedTuple):
    """The result of `inspect_dataset`."""

    title: str
    lines: list[str]  #: sentences
    tables: list[str]  #: Markdown
    wrong: list[Finding]  #: problems that stop training or make it drop data
    odd: list[Finding]  #: oddities that training accepts
    files: list[str]  #: the readable ones
    annotations: Annotations | None
    rows: Mapping[str, int]  #: file -> its index in the annotations

    def __str__(self) -> str:
        parts = [self.title, *self.lines, *(f"\n{text}" for text in self.tables)]
        for headline, findings in (
            ("WRONG: training stops at these, or goes on without them", self.wrong),
            ("worth knowing", self.odd),
        ):
            if findings:
                parts += [
                    f"\n{headline}",
                    *(f"- {f.what}: {f.times}, such as {f.such_as}" for f in findings),
                ]
        return "\n".join([*parts, "" if self.wrong else "\nnothing is wrong"]).rstrip()


def inspect_dataset(
    what: str,
    image_root: str | None = None,
    *,
    statistics: bool = False,
    sample: int = 1000,
    workers: int | None = None,
) -> Inspection:
    """Decode every image of a data set and check its labels against the images.

    Args:
        what: ``[FORMAT:]PATH[#SPLIT]``, see `recognise`, or the name of a registered data set.
        image_root: folder of a json's images, if it cannot be found automatically.
        statistics: measure the mean and standard deviation of each channel.
        sample: number of images to measure, evenly spaced.
        workers: threads; by default one per core.

    Raises:
        UserError and AnnotationError: the data set does not exist, or its labels cannot be used at all.
    """
    logger.info("reading %s", what)
    annotations, labels, files, title = _read(what, image_root)
    measured = files[:: -(-len(files) // sample) or 1] if statistics else []
    facts = look_at(files, frozenset(measured), workers)
    good = [fact for fact in facts if not fact.error]
    wrong = _told("images cannot be read", [f for f in facts if f.error])
    odd: list[Finding] = []
    lines = [*_of_files(good, len(facts))]
    tables = [_kinds(good)]
    if annotations is not None:
        found = look_at_labels(annotations, dict(enumerate(facts)))
        lines += found.lines
        tables.append(found.classes)
        for findings, to in ((found.wrong, wrong), (found.odd, odd)):
            to += [
                Finding(w, len(of), examples(of), found.at.get(w, "")) for w, of in findings.items()
            ]
        for note in annotations.notes:
            (wrong if "left out" in note.reason else odd).append(Finding(*note))
    elif labels is not None:
        tables.append(class_counts(labels))
    else:
        tables.append(by_folder(files, address_of(what).path))
    for headline, groups in (
        ("files that are there more than once", same_files(facts)),
        ("pictures that are nearly the same", alike(facts)),
    ):
        if groups:
            named = [" = ".join(_shortest(group)) for group in groups]
            odd.append(Finding(headline, len(groups), examples(named), groups[0][0]))
    if found_statistics := mean_and_std(facts):
        mean, std = (
            "[" + ",".join(f"{x:.2f}" for x in values) + "]" for values in found_statistics
        )
        lines.append(
            f"mean and standard deviation of {len(measured)} images: model.pixel_mean={mean} "
            f"model.pixel_std={std}"
        )
    rows = {file: row for row, file in enumerate(files)} if annotations is not None else {}
    readable = [fact.file_name for fact in good]
    return Inspection(
        title, lines, [t for t in tables if t], wrong, odd, readable, annotations, rows
    )


def _read(
    what: str, image_root: str | None
) -> tuple[Annotations | None, ImageLabels | None, list[str], str]:
    """Boxes and masks, or one class per image, or neither; the files; and a title."""
    if what in DatasetCatalog and not os.path.exists(what):
        metadata = MetadataCatalog.get(what)
        if metadata.get("evaluator_type") not in ("coco", "lvis"):
            return None, None, _names(pretrain_dataset((what,))), what
        found = read_annotations(metadata.json_file, what)
        return found, None, files_of(found, metadata.image_root), f"{what}: {metadata.json_file}"
    recognised = recognise(address_of(what))
    title = f"{what}: {recognised.format.title}"
    if FORMATS[recognised.name].read is None and recognised.name != "coco":
        return None, None, _names(images_from(what, image_root, allow_missing=None)), title
    try:
        annotations = read_annotations(what)
    except AnnotationError as error:
        try:
            labels = read_image_labels(what)
        except AnnotationError:
            raise error from None
        return None, labels, [image.file_name for image, _ in labels.images], title
    return annotations, None, files_of(annotations, image_root), title


def _names(dicts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [sample["file_name"] for sample in dicts]


def _of_files(good: Sequence[PhotoFacts], count: int) -> list[str]:
    """Sentences about the number and sizes of images."""
    if not good:
        return [f"{count} images, none of which can be read"]
    sizes = Counter(fact.size for fact in good)
    common = [f"{w}x{h} ({n})" for (h, w), n in sizes.most_common(_SHOWN_SIZES)]
    heights, widths = zip(*sizes, strict=True)
    total = sum(fact.num_bytes for fact in good)
    return [
        f"{count} images, {len(good)} of them can be read; {total / 1e6:,.1f} MB, "
        f"{total / len(good) / 1e3:,.0f} kB per image",
        f"{len(sizes)} sizes, width x height: {', '.join(common)}"
        + (", ..." if len(sizes) > _SHOWN_SIZES else "")
        + f"; widths {min(widths)} to {max(widths)}, heights {min(heights)} to {max(heights)}",
    ]


def _kinds(good: Sequence[PhotoFacts]) -> str:
    kinds = Counter(fact.kind for fact in good).most_common()
    return table(["kind", "images"], kinds[:_LISTED]) if kinds else ""


def _told(what: str, bad: Sequence[PhotoFacts]) -> list[Finding]:
    named = [f"{fact.file_name} ({fact.error})" for fact in bad]
    return [Finding(what, len(bad), examples(named))] if bad else []


def _shortest(names: Sequence[str]) -> list[str]:
    """Paths without their common beginning."""
    start = os.path.commonpath([os.path.dirname(os.path.abspath(n)) for n in names]) + os.sep
    return [os.path.abspath(name).removeprefix(start) for name in names]
