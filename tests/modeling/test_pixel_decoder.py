import torch

from rmae_d2.modeling import PixelDecoder
from tests.helpers import jittered

SIZE = {"patch_size": 4, "dim": 16, "depth": 1, "num_heads": 4}


def test_mask_tokens_stand_where_nothing_is_visible():
    decoder = jittered(PixelDecoder(8, (2, 3), **{**SIZE, "depth": 0}))
    tokens, visible = torch.randn(2, 3, 8), torch.tensor([[5, 0], [2, 3]])
    x = decoder(tokens, visible) - decoder.pos_embed
    embedded = decoder.embed(tokens)
    for i, ids in enumerate(visible.tolist()):
        for patch in range(6):
            place = ids.index(patch) + 1 if patch in ids else None
            expected = decoder.mask_token[0, 0] if place is None else embedded[i, place]
            torch.testing.assert_close(x[i, 1 + patch], expected)
    torch.testing.assert_close(x[:, 0], embedded[:, 0])


def test_hidden_patches_in_the_order_asked_for():
    """Whatever the order of the visible ones; pixels, width and channels of the grid's patches."""
    decoder = jittered(PixelDecoder(8, (2, 3), in_chans=2, **SIZE))
    tokens = torch.randn(1, 3, 8)
    pred = decoder.decode(tokens, torch.tensor([[5, 0]]), torch.tensor([[1, 2, 4]]))
    assert pred.shape == (1, 3, 32)
    swapped = tokens[:, [0, 2, 1]]
    again = decoder.decode(swapped, torch.tensor([[0, 5]]), torch.tensor([[4, 1, 2]]))
    torch.testing.assert_close(again, pred[:, [2, 0, 1]])


def test_context_is_attended_to():
    decoder = jittered(PixelDecoder(8, (2, 3), **SIZE))
    tokens, visible, context = torch.randn(1, 3, 8), torch.tensor([[5, 0]]), torch.randn(1, 4, 16)
    assert decoder(tokens, visible, context).shape == (1, 1 + 6 + 4, 16)
    heard = decoder.decode(tokens, visible, torch.tensor([[1]]), context)
    assert not torch.allclose(heard, decoder.decode(tokens, visible, torch.tensor([[1]])))
    mirrored = decoder.decode(tokens, visible, torch.tensor([[1]]), context.flip(1))
    torch.testing.assert_close(heard, mirrored)  # its tokens have no place
