"""Duplicate images: identical files, or nearly identical pictures."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .photos import THUMBNAIL, PhotoFacts

#: Bits of the 64-bit difference hash that may differ; at least one of its four 16-bit bands is then equal.
_BITS = 3
_BANDS = 4
#: Grey levels: the mean difference allowed between thumbnails, and the spread of a uniform image.
_LEVELS, _EVEN = 6.0, 3.0
#: A band shared by more images than this is not informative.
_MOST = 2000


def same_files(facts: Sequence[PhotoFacts]) -> list[list[str]]:
    """Group files with identical bytes."""
    groups = defaultdict(list)
    for fact in facts:
        if not fact.error:
            groups[fact.digest].append(fact.file_name)
    return [names for names in groups.values() if len(names) > 1]


def alike(facts: Sequence[PhotoFacts]) -> list[list[str]]:
    """Group different files that show nearly the same picture, e.g. rescaled or recompressed.

    Pictures match if their difference hashes (whether each grey level exceeds its right neighbour's, at
    8 x 8 positions) differ in at most 3 of 64 bits and the grey levels themselves are close. Uniform images
    are left out.
    """
    known = [fact for fact in {f.digest: f for f in facts if not f.error}.values()]
    grey = np.array([np.frombuffer(f.thumbnail, np.uint8) for f in known], np.float32)
    grey = grey.reshape(-1, *THUMBNAIL)
    telling = np.flatnonzero(grey.std(axis=(1, 2)) > _EVEN)
    grey, known = grey[telling], [known[k] for k in telling]
    bits = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(known), 64)
    groups = _Groups(len(known))
    for band in np.split(np.packbits(bits, axis=1), _BANDS, axis=1):
        for members in _sharing(band):
            for k, first in enumerate(members[:-1]):
                others = members[k + 1 :]
                near = (bits[others] != bits[first]).sum(axis=1) <= _BITS
                others = others[near]
                off = np.abs(grey[others] - grey[first]).mean(axis=(1, 2))
                groups.join(int(first), others[off <= _LEVELS].tolist())
    return [[known[k].file_name for k in members] for members in groups.of_several()]


def _sharing(band: NDArray[np.uint8]) -> Iterable[NDArray[np.int64]]:
    """Yield the indices of equal rows, for groups of several rows but not too many."""
    _, inverse = np.unique(band, axis=0, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(inverse.ravel()))[:-1]):
        if 1 < len(members) <= _MOST:
            yield members


class _Groups:
    """Disjoint sets of numbers (union-find)."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def join(self, first: int, others: Iterable[int]) -> None:
        for other in others:
            self._above[self._root(other)] = self._root(first)

    def of_several(self) -> list[list[int]]:
        groups = defaultdict(list)
        for k in range(len(self._above)):
            groups[self._root(k)].append(k)
        return [members for members in groups.values() if len(members) > 1]

    def _root(self, k: int) -> int:
        while self._above[k] != k:
            self._above[k] = self._above[self._above[k]]
            k = self._above[k]
        return k
