"""What a user can remedy. Commands print these in one line; any other exception shows its traceback."""


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


class StoreError(UserError):
    """A region record or store that is absent, damaged or made for something else."""
