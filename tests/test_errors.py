"""Errors that users can set right, and hints at what they may have meant."""

import pickle

import pytest

from rmae_d2.errors import ImageReadError, UserError, did_you_mean


def test_an_image_error_comes_out_of_a_worker_process_as_it_was():
    error = pickle.loads(pickle.dumps(ImageReadError("a/7.jpg", "it is cut short")))
    assert (error.path, error.reason) == ("a/7.jpg", "it is cut short")
    assert str(error).startswith("cannot read the image a/7.jpg: it is cut short.")
    assert isinstance(error, UserError)


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("trian.max_iter", ["train.max_iter", "model.depth"], "did you mean train.max_iter?"),
        ("depth", ["train.deep", "model.depth"], "did you mean model.depth?"),
        ("abc", ["abd", "abe", "xyz"], "did you mean abd or abe?"),
        ("qqq", ["train.a", "train.b", "model.c"], "known are model, train"),
        ("qqq", [], "known are "),
    ],
)
def test_did_you_mean(name, known, hint):
    assert did_you_mean(name, known) == hint


def test_did_you_mean_with_another_separator_and_another_hint():
    assert did_you_mean("demo/tiny", ["demo/tiny.py"], sep="/") == "did you mean demo/tiny.py?"
    assert did_you_mean("zzz", ["train"], otherwise="--help names them") == "--help names them"
