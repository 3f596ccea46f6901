import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.modeling import patchify, sincos_position_embedding, unpatchify
from rmae_d2.modeling.patches import PatchEmbed, grid_of
from tests.helpers import hf_mae_config

SIDES = st.integers(1, 5)


@given(st.integers(1, 3), st.integers(1, 5), SIDES, SIDES, SIDES)
def test_unpatchify_inverts_patchify(B, C, Gh, Gw, P):
    images = torch.arange(B * C * Gh * Gw * P * P).reshape(B, C, Gh * P, Gw * P)
    patches = patchify(images, P)
    assert patches.shape == (B, Gh * Gw, P * P * C)
    assert torch.equal(unpatchify(patches, (Gh, Gw), P), images)


@given(st.integers(1, 4), SIDES, SIDES, SIDES)
def test_patches_are_in_raster_order(C, Gh, Gw, P):
    images = torch.randn(2, C, Gh * P, Gw * P)
    patches = patchify(images, P)
    for i in range(Gh):
        for j in range(Gw):
            patch = images[:, :, i * P : (i + 1) * P, j * P : (j + 1) * P]
            assert torch.equal(patches[:, i * Gw + j], patch.permute(0, 2, 3, 1).flatten(1))


def test_patch_order_is_that_of_hugging_face():
    model = hf_model()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(patchify(images, 8), model.patchify(images))
    assert torch.equal(unpatchify(patchify(images, 8), (4, 4), 8), images)


def test_position_table_is_that_of_hugging_face():
    embeddings = hf_model().vit.embeddings
    if not embeddings.position_embeddings.any():
        # transformers 5 leaves the table at zero here: it stops when the convolution is initialised.
        embeddings.patch_embeddings.projection._is_hf_initialized = False
        embeddings.initialize_weights()
    theirs = embeddings.position_embeddings
    assert torch.allclose(sincos_position_embedding(32, (4, 4)), theirs, atol=1e-6)


def hf_model():
    transformers = pytest.importorskip("transformers")
    return transformers.ViTMAEForPreTraining(hf_mae_config(num_hidden_layers=1))


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([4, 12, 16, 64]))
def test_position_table_of_any_grid(Gh, Gw, dim):
    table = sincos_position_embedding(dim, (Gh, Gw))
    assert table.shape == (1, 1 + Gh * Gw, dim)
    assert table.dtype == torch.float32
    assert not table[0, 0].any()
    patches = table[0, 1:].unflatten(0, (Gh, Gw))
    columns, rows = patches.split(dim // 2, dim=-1)
    # The first half depends on the column only, the second on the row only, by the same function.
    assert torch.equal(columns, columns[:1].expand_as(columns))
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    shared = min(Gh, Gw)
    assert torch.equal(columns[0, :shared], rows[:shared, 0])
    assert len(patches.flatten(0, 1).unique(dim=0)) == Gh * Gw
    assert torch.equal(sincos_position_embedding(dim, (Gh, Gw), cls_token=False), table[:, 1:])


def test_patch_embedding_is_its_own_convolution():
    embed = PatchEmbed(4, 5, 12)
    images = torch.randn(2, 5, 8, 12)
    expected = embed.proj(images).flatten(2).transpose(1, 2)
    assert torch.allclose(embed(patchify(images, 4)), expected, atol=1e-5)


def test_grid_of():
    assert grid_of((32, 64), 8) == (4, 8)
    assert grid_of(32, 16) == (2, 2)
    assert grid_of([32, 64], 8) == (4, 8)
    for size in (30, (32, 36), 0):
        with pytest.raises(ValueError, match="patch size 8"):
            grid_of(size, 8)


def test_errors():
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_position_embedding(6, (2, 2))
    with pytest.raises(ValueError, match="5 patches do not fill a 2x2 grid"):
        unpatchify(torch.zeros(1, 5, 12), (2, 2), 2)
    with pytest.raises(ValueError, match="30x32"):
        patchify(torch.zeros(1, 3, 30, 32), 8)
