"""Read numpy arrays and scalars from pickles without running anything that these name.

Detectron2's model zoo files are such pickles, and some torch checkpoints contain them. An unpickler calls
whatever a file asks for. This one knows only a few names and replaces each with a stand-in of ours: neither
numpy's constructors nor its ``__setstate__`` see the file's data before types and sizes are checked.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

# Kinds and sizes of the numbers that torch has too.
_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


def load_numpy_pickle(file: BinaryIO) -> Any:
    """Load a pickle of numpy arrays, with every array as a tensor.

    Raises:
        pickle.UnpicklingError: the file names anything but arrays, reported as ``GLOBAL module.name``, or is
            broken.
    """
    return to_tensors(_Unpickler(file, encoding="latin1").load())


class _Type:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, name: str, *_: Any) -> None:
        if name not in _TYPES:
            raise pickle.UnpicklingError(f"an array of type {name!r}, which holds no plain numbers")
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]

    def read(self, data: bytes | str, shape: tuple[int, ...], fortran: bool) -> Tensor:
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)  # str: Python 2
        dtype = np.dtype(self.order + self.name)
        if len(raw) != math.prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError(f"{len(raw)} bytes for an array of shape {shape}")
        array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C", copy=True))


class _Array:
    """Stands in for ``numpy.ndarray``: empty until its state arrives."""

    def __init__(self, *_: Any) -> None:
        self.tensor: Tensor | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.tensor = dtype.read(data, shape, fortran)


def _from_buffer(data: bytes, dtype: _Type, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.tensor = dtype.read(data, shape, order == "F")
    return array


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding!r}")
    return text.encode("latin1")


def _scalar(dtype: _Type, data: bytes | str) -> Any:
    return dtype.read(data, (), False).item()


_NUMPY: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _Array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
#: By module and name; numpy 2 renamed the module and writes the new name.
STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    **{
        (f"numpy.{core}.{name.partition('.')[0]}", name.partition(".")[2]): stand_in
        for core in ("core", "_core")
        for name, stand_in in _NUMPY.items()
    },
    ("_codecs", "encode"): _encode,
}
_OF_PICKLES = {
    ("__builtin__", "bytes"): lambda: b"",  # protocol 2 has no literal for it
    ("collections", "OrderedDict"): OrderedDict,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = (STAND_INS | _OF_PICKLES).get((module, name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return stand_in


def to_tensors(content: Any) -> Any:
    """Replace every array from a pickle with a tensor; dicts and lists are changed in place."""
    if isinstance(content, _Array):
        if content.tensor is None:
            raise pickle.UnpicklingError("an array without its numbers")
        return content.tensor
    if isinstance(content, dict):
        for key, value in content.items():
            content[key] = to_tensors(value)
    elif isinstance(content, list):
        content[:] = map(to_tensors, content)
    elif type(content) is tuple:
        return tuple(map(to_tensors, content))
    return content
