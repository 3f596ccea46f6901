"""Match label files to images, for formats with one label file per image."""

from collections.abc import Iterable
from pathlib import PurePath


class Images:
    """Images below a folder, indexed by name without extension."""

    def __init__(self, names: Iterable[str], folder: str = "") -> None:
        """Takes relative paths, and the name of the image folder if labels have a separate one."""
        self._folder = folder
        self._by_stem: dict[str, list[PurePath]] = {}
        for name in names:
            path = PurePath(name)
            self._by_stem.setdefault(path.stem.casefold(), []).append(path)

    def of(self, label: str, said: str) -> str:
        """The image with the label file's name: beside it, in the image folder, or the only one anywhere.

        Args:
            label: relative path of the label file.
            said: image name given in the label file; used if no image has the label's name.

        Returns:
            a relative path; if the image is missing, the expected one.
        """
        path = PurePath(label)
        for stem, beside in ((path.stem, path.parent), (PurePath(said).stem, path.parent)):
            found = self._by_stem.get(stem.casefold(), [])
            near = [image for image in found if image.parent == beside]
            near = near or [image for image in found if self._folder in image.parts[:-1]] or found
            # If extensions differ, the one that the label file names.
            named = [image for image in near if image.name == PurePath(said).name]
            if len(near) == 1 or named:
                return (named or near)[0].as_posix()
        return (path.parent / (PurePath(said).name or f"{path.stem}.jpg")).as_posix()
