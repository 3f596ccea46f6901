"""What an annotation file holds, as text to read."""

from collections import Counter

from ..tables import table
from .coco import read_annotations

_LISTED = 40


def summary(path: str) -> str:
    """Counts of images, classes, boxes and masks of a COCO or LVIS json, and all that is left out or mended.

    Raises:
        UserError and AnnotationError, as `read_annotations`.
    """
    annotations = read_annotations(path)
    kinds: Counter[str] = Counter()
    objects: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for _, instances in annotations:
        kinds["empty"] += not instances
        images.update({instance.category_id for instance in instances})
        for instance in instances:
            objects[instance.category_id] += 1
            kinds["crowds"] += instance.iscrowd
            kinds["polygons"] += isinstance(instance.mask, list)
            kinds["run lengths"] += isinstance(instance.mask, dict)
    count = sum(objects.values())
    lines = [
        f"{path}: {len(annotations)} images, {kinds['empty']} of them without annotations; "
        f"{len(annotations.categories)} classes",
        f"{count} objects, {kinds['crowds']} of them crowds: {kinds['polygons']} with polygons, "
        f"{kinds['run lengths']} with run lengths, "
        f"{count - kinds['polygons'] - kinds['run lengths']} with boxes alone",
        *(annotations.notes or ["nothing is left out or mended"]),
    ]
    named = sorted(annotations.categories, key=lambda category: -objects[category.id])
    rows = [(c.name, c.id, objects[c.id], images[c.id]) for c in named[:_LISTED]]
    if rows:
        lines += ["", table(["class", "id", "objects", "images"], rows)]
    if len(named) > _LISTED:
        lines.append(f"and {len(named) - _LISTED} classes more")
    return "\n".join(lines)
