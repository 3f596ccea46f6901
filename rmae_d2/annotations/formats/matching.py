"""Which image a label file belongs to, where each image has its own."""

from collections.abc import Iterable
from pathlib import PurePath


class Images:
    """Images below a folder, by name without extension."""

    def __init__(self, names: Iterable[str], folder: str = "") -> None:
        """Takes relative paths, and what the images' folder is called where labels have one beside it."""
        self._folder = folder
        self._by_stem: dict[str, list[PurePath]] = {}
        for name in names:
            path = PurePath(name)
            self._by_stem.setdefault(path.stem.casefold(), []).append(path)

    def of(self, label: str, said: str) -> str:
        """The image with the label file's name: beside it, in the images' folder, or the only one anywhere.

        Args:
            label: relative path of the label file.
            said: what the label file calls its image; it is believed where no image has the label's name.

        Returns:
            a relative path; of an image that is not there, what it should be.
        """
        path = PurePath(label)
        for stem, beside in ((path.stem, path.parent), (PurePath(said).stem, path.parent)):
            found = self._by_stem.get(stem.casefold(), [])
            near = [image for image in found if image.parent == beside]
            near = near or [image for image in found if self._folder in image.parts[:-1]] or found
            # Of two extensions the one that the file names.
            named = [image for image in near if image.name == PurePath(said).name]
            if len(near) == 1 or named:
                return (named or near)[0].as_posix()
        return (path.parent / (PurePath(said).name or f"{path.stem}.jpg")).as_posix()
