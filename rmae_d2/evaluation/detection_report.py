"""Tables of detection results: by size, by frequency and by class."""

import csv
import io
from typing import Any

import numpy as np
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from tabulate import tabulate

from .average_precision import Curves, category_metrics
from .ground_truth import AREAS, FREQUENCIES

#: More classes than this are logged in part; the csv file has all of them.
LOGGED_CLASSES = 100
_ENDS = 20

_SIZE_LABELS = {
    "all": "all",
    "small": "small (to 32^2 pixels)",
    "medium": "medium (to 96^2)",
    "large": "large",
}


def size_table(metrics: dict[str, float], counts_KA: NDArray[np.int64], limit: int) -> str:
    """AP and AR by the size of the instances.

    Args:
        metrics: of `metrics_of`.
        counts_KA: instances, (categories, sizes).
        limit: detections per image at most.
    """
    rows = []
    for a, name in enumerate(AREAS):
        letter = "" if name == "all" else name[0]
        ap, ar = metrics[f"AP{letter}"], metrics[f"AR{letter}@{limit}"]
        rows.append([_SIZE_LABELS[name], int(counts_KA[:, a].sum()), ap, ar])
    return _table(rows, ["size", "instances", "AP", f"AR@{limit}"])


def frequency_table(
    metrics: dict[str, float], counts_KA: NDArray[np.int64], frequencies: list[str]
) -> str:
    """LVIS's AP by how many images of the training set have the category."""
    rows = []
    for letter, name in FREQUENCIES.items():
        chosen = np.array([f == letter for f in frequencies], bool)
        present = int((counts_KA[chosen, 0] > 0).sum())
        rows.append([name, int(chosen.sum()), present, metrics[f"AP{letter}"]])
    return _table(rows, ["frequency", "categories", "of them present", "AP"])


def class_rows(
    curves: Curves,
    counts_KA: NDArray[np.int64],
    names: list[str],
    category_ids: list[int],
    frequencies: list[str] | None,
) -> list[dict[str, Any]]:
    """One row a class, with its id, instances and metrics."""
    rows = []
    for k, (name, identifier) in enumerate(zip(names, category_ids, strict=True)):
        row: dict[str, Any] = {"category": name, "id": identifier}
        if frequencies is not None:
            row["frequency"] = frequencies[k]
        rows.append({**row, "instances": int(counts_KA[k, 0]), **category_metrics(curves, k)})
    return rows


def class_table(rows: list[dict[str, Any]]) -> str:
    """AP of the classes that have instances: all of them, or the best and the worst of many."""
    present = [row for row in rows if row["instances"]]
    cells = [[row["category"], row["instances"], row["AP"]] for row in present]
    title = ""
    if len(cells) > LOGGED_CLASSES:
        cells.sort(key=lambda cell: -cell[2])
        title = f"the {_ENDS} best and the {_ENDS} worst of {len(cells)} classes:\n"
        cells = cells[:_ENDS] + cells[-_ENDS:]
    columns = min(3, len(cells)) or 1
    cells += [["", "", ""]] * (-len(cells) % columns)
    height = len(cells) // columns
    lines = [[x for c in range(columns) for x in cells[c * height + r]] for r in range(height)]
    return title + _table(lines, ["category", "instances", "AP"] * columns)


def write_class_csv(rows: list[dict[str, Any]], path: str) -> None:
    """All classes and metrics; a metric that is not defined is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v != v else v for k, v in row.items()})
    with PathManager.open(path, "w") as file:
        file.write(text.getvalue())


def _table(rows: list[list[Any]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f", numalign="right")
