import datetime
import functools
import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.checkpoint import load_weights
from rmae_d2.checkpoint.numpy_pickle import load_numpy_pickle
from rmae_d2.errors import CheckpointError


def read(content, protocol):
    return load_numpy_pickle(io.BytesIO(pickle.dumps(content, protocol=protocol)))


TYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64"]


@given(
    dtype=st.sampled_from(TYPES),
    order=st.sampled_from(["<", ">"]),
    shape=st.lists(st.integers(0, 4), max_size=3),
    layout=st.sampled_from(["C", "F", "strided"]),
    protocol=st.integers(2, pickle.HIGHEST_PROTOCOL),
)
def test_arrays_are_read_as_numpy_reads_them(dtype, order, shape, layout, protocol):
    numbers = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, shape)
    array = numbers.astype(np.dtype(dtype).newbyteorder(order))
    array = np.array(array, order="F" if layout == "F" else "C")
    if layout == "strided" and shape:
        array = array[..., ::-1]
    tensor = read({"a": array}, protocol)["a"]
    assert tensor.dtype == getattr(torch, dtype)
    assert tuple(tensor.shape) == array.shape
    assert np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_model_zoo_file(make_rmae, tmp_path, protocol):
    ours = {k: v for k, v in make_rmae().state_dict().items() if k.startswith("backbone.net.")}
    for name in ("cls_token", "norm.weight", "norm.bias"):
        del ours[f"backbone.net.{name}"]
    content = {
        "model": OrderedDict((k, v.numpy()) for k, v in ours.items()),
        "__author__": "Detectron2 ViTDet Model Zoo",
        "iteration": np.int64(7),
        "best": [np.float64(0.5), None, True, 3],
    }
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    kind, state_dict = load_weights(str(path))
    assert kind == "detectron2"
    assert state_dict.keys() == ours.keys()
    assert all(torch.equal(state_dict[k], ours[k]) for k in ours)


def test_a_torch_file_of_that_name(make_rmae, tmp_path):
    path = str(tmp_path / "torch.pkl")
    torch.save(make_rmae().state_dict(), path)
    assert load_weights(path)[0] == "rmae_d2"


class Calls:
    """Pickles to a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, f"{os.name}.system"),
        (eval, r"_*builtins?_*\.eval"),
        (getattr, r"_*builtins?_*\.getattr"),
        (functools.partial, "functools.partial"),
        (datetime.timedelta, "datetime.timedelta"),
        (np.load, "numpy.load"),
        (torch.load, "torch.serialization.load"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_else_is_called(tmp_path, function, named, protocol):
    ran = tmp_path / "ran"
    path = tmp_path / "evil.pkl"
    argument = f"open({str(ran)!r}, 'w')" if function is eval else f"touch {ran}"
    path.write_bytes(pickle.dumps({"model": Calls(function, argument)}, protocol=protocol))
    with pytest.raises(CheckpointError, match=rf"evil\.pkl: .*it holds {named}.*could run code"):
        load_weights(str(path))
    assert not ran.exists()


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()], dtype=object),
        np.zeros(2, dtype="U3"),
        np.zeros(2, dtype="V8"),
        np.zeros(2, dtype=[("a", "f4")]),
        np.zeros(2, dtype="datetime64[s]"),
        np.zeros(2, dtype=complex),
    ],
)
def test_arrays_that_are_no_numbers(tmp_path, array):
    path = tmp_path / "odd.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": array}}))
    with pytest.raises(CheckpointError, match=r"odd\.pkl: not a readable weight file"):
        load_weights(str(path))


def test_data_that_does_not_fill_its_shape(tmp_path):
    """As numpy itself would accept to be told, were it asked."""
    good = pickle.dumps(np.zeros(3, np.float32), protocol=4)
    bad = good.replace(b"K\x03\x85", b"K\x7f\x85")
    assert bad != good
    with pytest.raises(pickle.UnpicklingError, match=r"12 bytes for an array of shape \(127,\)"):
        load_numpy_pickle(io.BytesIO(bad))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_cut_short(tmp_path, share):
    content = pickle.dumps({"model": {"a": np.zeros(1000)}})
    path = tmp_path / "cut.pkl"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"cut\.pkl: not a readable weight file .*cut short"):
        load_weights(str(path))
