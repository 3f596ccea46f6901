"""What other packages must bring."""

from rmae_d2 import compat


def test_this_detectron2_is_recent_enough():
    compat.check_detectron2()
