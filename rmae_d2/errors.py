"""What a user can remedy. Commands print these in one line; any other exception shows its traceback."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any

_EXAMPLES = 5


class UserError(ValueError):
    """Something that a user can set right; the message names the file or value and the remedy.

    The subclasses are those that a caller tells apart from others, to pass over one image or one file.
    """


class ImageReadError(UserError):
    """One file that does not give an image.

    Attributes:
        path: the file.
        reason: what is wrong with it, one clause.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # as args, so that the error survives pickling
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot read the image {self.path}: {self.reason}. Take the file out of the data set or "
            "replace it by one that an image viewer opens."
        )


class ImageSizeError(UserError):
    """An image that the config's augmentations cannot bring to a size that a model takes."""


class CheckpointError(UserError):
    """A weight file that cannot be read, recognised, written, or fitted to the model."""


class AnnotationError(UserError):
    """An annotation file that cannot be used; the message names the entries too."""


class RemoteError(UserError):
    """An object store or web server that does not give what it is asked for: no fault of one file."""


class StoreError(UserError):
    """A region record or store that is absent, damaged or made for something else."""


def did_you_mean(name: str, known: Collection[str], otherwise: str = "", sep: str = ".") -> str:
    """A hint like "did you mean a.b?", by likeness of the whole name or of its last component.

    Args:
        name: what was given.
        known: what there is.
        otherwise: what to say where nothing is like it; by default the first components of all that is known.
        sep: between the components of a name.
    """
    whole, last = (difflib.SequenceMatcher(b=text) for text in (name, name.rpartition(sep)[2]))
    scored = []
    for other in known:
        whole.set_seq1(other)
        last.set_seq1(other.rpartition(sep)[2])
        score = max(whole.ratio(), last.ratio())
        if score >= 0.6:
            scored.append((-score, -whole.ratio(), other))
    scored.sort()
    nearest = [other for score, _, other in scored[:3] if score <= scored[0][0] + 0.15]
    if nearest:
        return f"did you mean {' or '.join(nearest)}?"
    return otherwise or f"known are {', '.join(sorted({n.partition(sep)[0] for n in known}))}"


def examples(values: Iterable[Any]) -> str:
    """A few of many values, for a message: "3, 7, 9 ..."."""
    values = list(values)
    few = ", ".join(str(value) for value in values[:_EXAMPLES])
    return f"{few} ..." if len(values) > _EXAMPLES else few
