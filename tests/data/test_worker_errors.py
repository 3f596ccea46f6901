"""Errors in loader workers: the same error in the main process, and where it came from."""

import traceback

import pytest

from rmae_d2.data import build_eval_loader, build_train_loader
from rmae_d2.data.loader import WorkerError
from rmae_d2.errors import AnnotationError, ImageReadError


class StubbornError(Exception):
    """Pickles, but does not come back."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def wrong_label(_):
    raise AnnotationError("labels/7.png has the label 200")


def unreadable(_):
    raise ImageReadError("7.jpg", "it is damaged")


def stubborn(_):
    raise StubbornError("no", "way")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("build", [build_train_loader, build_eval_loader])
def test_the_message_is_the_errors_own(build, workers):
    arguments = {} if build is build_eval_loader else {"total_batch_size": 1}
    loader = build([{}], wrong_label, num_workers=workers, **arguments)
    with pytest.raises(AnnotationError) as caught:
        next(iter(loader))
    assert str(caught.value) == "labels/7.png has the label 200"
    assert isinstance(caught.value.__cause__, WorkerError) == bool(workers)
    # Whoever looks for the place finds it.
    shown = "".join(traceback.format_exception(caught.value))
    assert "in wrong_label" in shown and shown.endswith(
        "AnnotationError: labels/7.png has the label 200\n"
    )


def test_errors_of_several_arguments():
    with pytest.raises(ImageReadError) as caught:
        next(iter(build_eval_loader([{}], unreadable, num_workers=1)))
    assert (caught.value.path, caught.value.reason) == ("7.jpg", "it is damaged")


def test_what_does_not_survive_the_way_is_told_by_pytorch():
    with pytest.raises(RuntimeError, match="(?s)Caught StubbornError in DataLoader worker.*no way"):
        next(iter(build_eval_loader([{}], stubborn, num_workers=1)))


def test_the_batches_after_an_error_still_come():
    """As from PyTorch's loaders."""
    batches = iter(build_eval_loader([{"k": k} for k in range(3)], second_fails, num_workers=1))
    assert next(batches) == [{"k": 0}]
    with pytest.raises(ZeroDivisionError):
        next(batches)
    assert list(batches) == [[{"k": 2}]]


def second_fails(sample):
    if sample["k"] == 1:
        raise ZeroDivisionError
    return sample
