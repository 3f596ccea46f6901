"""Errors that users can fix. Commands print these in one line; any other exception shows its traceback."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any

_EXAMPLES = 5


class UserError(ValueError):
    """An error that the user can fix; the message names the file or value and the remedy.

    Subclasses exist where a caller must distinguish errors, to skip one image or one file.
    """


class ImageReadError(UserError):
    """A file that yields no image.

    Attributes:
        path: the file.
        reason: what is wrong with it, as a clause.
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
    """An image that the config's augmentations cannot resize to a size that the model accepts."""


class CheckpointError(UserError):
    """A weight file that cannot be read, recognised, written, or matched to the model."""


class AnnotationError(UserError):
    """An unusable annotation file; the message also names the entries."""


class RemoteError(UserError):
    """An object store or web server that does not deliver what was requested; not the fault of one file."""


class StoreError(UserError):
    """A region record or store that is missing, damaged or made for something else."""


def did_you_mean(name: str, known: Collection[str], otherwise: str = "", sep: str = ".") -> str:
    """Returns a hint like "did you mean a.b?", by similarity of the whole name or its last component.

    Args:
        name: the given name.
        known: the existing names.
        otherwise: hint if no name is similar; by default the first components of all known names.
        sep: separator between the components of a name.
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
    """Formats a few of many values for a message: "3, 7, 9 ..."."""
    values = list(values)
    few = ", ".join(str(value) for value in values[:_EXAMPLES])
    return f"{few} ..." if len(values) > _EXAMPLES else few
