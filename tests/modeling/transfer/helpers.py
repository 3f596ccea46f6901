"""What the tests of transfer share."""

from rmae_d2.modeling import ViT

TAPS = ["block0", "block1", "block2", "block3"]


def make_vit(**arguments):
    """Four blocks of width 32, patches of 16, with relative positions."""
    size = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 4, "num_heads": 4}
    return ViT(**{**size, "use_rel_pos": True, "pretrain_img_size": 48, **arguments})


def assert_near(found, expected, tolerance=1e-5):
    """Equal to a part of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
