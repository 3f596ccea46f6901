"""Ways of attention that keep no scores, against the plain one."""

import pytest
import torch
from detectron2.modeling.backbone.utils import get_rel_pos
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.modeling.transfer import vit_attention
from rmae_d2.modeling.transfer.vit_attention import (
    attention,
    chunked_attention,
    relative_scores,
    relative_table,
    widened_attention,
)
from tests.modeling.transfer.helpers import assert_near


@given(
    table=st.integers(1, 9),
    size=st.integers(1, 9),
)
def test_relative_table_is_detectron2s(table, size):
    embeddings = torch.randn(2 * table - 1, 3)
    assert torch.equal(
        relative_table(embeddings, size), get_rel_pos(size, size, embeddings.clone())
    )


def naive_attention(q, k, v, rel):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if rel is not None:
        before = scores.shape[-1] - rel[0].shape[-1] * rel[1].shape[-1]
        scores[..., before:] += (rel[0][..., :, None] + rel[1][..., None, :]).flatten(-2)
    return scores.softmax(-1) @ v


def attention_inputs(N, A, H, W, C, rel_pos=True, dtype=torch.float64, before=0):
    L = before + H * W
    q, k, v = (torch.randn(N, A, L, C, dtype=dtype, requires_grad=True) for _ in range(3))
    rel = tuple(torch.randn(N, A, L, side, dtype=dtype, requires_grad=True) for side in (H, W))
    return q, k, v, rel if rel_pos else None


@given(
    shape=st.tuples(*(st.integers(1, top) for top in (3, 3, 5, 5, 9))),
    chunk=st.integers(1, 400),
    rel_pos=st.booleans(),
    before=st.integers(0, 2),
)
def test_ways_of_attention_agree(shape, chunk, rel_pos, before):
    """Any shape, in chunks of parts of a head or of several, with and without tokens before the grid."""
    q, k, v, rel = attention_inputs(*shape, rel_pos, before=before)
    inputs = (q, k, v, *(rel or ()))
    grad = torch.randn_like(q)
    expected = naive_attention(q, k, v, rel)
    expected_grads = torch.autograd.grad(expected, inputs, grad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vit_attention, "_CHUNK", chunk)
        found = {"chunked": chunked_attention(q, k, v, rel)}
        with torch.no_grad():
            assert torch.equal(found["chunked"], chunked_attention(q, k, v, rel))
        if rel:
            found["widened"] = widened_attention(q, k, v, rel)
        for name, out in found.items():
            torch.testing.assert_close(out, expected, msg=name)
            for one, other in zip(
                torch.autograd.grad(out, inputs, grad), expected_grads, strict=True
            ):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=name)


def test_tokens_before_the_grid_have_no_relative_positions():
    q, tables = torch.randn(2, 3, 2 + 4 * 5, 6), (torch.randn(7, 6), torch.randn(9, 6))
    for found, expected in zip(
        relative_scores(q, tables, (4, 5)),
        relative_scores(q[:, :, 2:], tables, (4, 5)),
        strict=True,
    ):
        assert torch.equal(found[:, :, 2:], expected) and not found[:, :, :2].any()


def test_widened_attention_in_half_precision_and_above_256_dimensions():
    for H, W, dtype in ((5, 7, torch.bfloat16), (2, 256, torch.bfloat16), (2, 256, None)):
        q, k, v, rel = attention_inputs(1, 2, H, W, 12, dtype=torch.float32)
        expected = naive_attention(q, k, v, rel)
        if dtype:
            q, k, v, *rel = (x.to(dtype) for x in (q, k, v, *rel))
        found = widened_attention(q, k, v, tuple(rel))
        assert_near(found.float(), expected, 0.02 if dtype else 1e-5)


def test_large_scores_do_not_overflow():
    q, k, v, rel = attention_inputs(1, 1, 3, 3, 4, dtype=torch.float32)
    q, k, v, *rel = (x.detach() * 100 for x in (q, k, v, *rel))
    expected = naive_attention(q, k, v, rel)
    assert torch.allclose(chunked_attention(q, k, v, tuple(rel)), expected, rtol=1e-4)


def test_a_global_block_keeps_no_scores():
    """What autograd holds between forward and backward grows with L (H + W), not with L squared."""

    def saved(function, *inputs):
        storages = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: storages.setdefault(x.untyped_storage().data_ptr(), x), lambda x: x
        ):
            out = function(*inputs)
        del out
        return sum(x.untyped_storage().nbytes() for x in storages.values())

    H = W = 32
    q, k, v, _ = attention_inputs(1, 2, H, W, 16, dtype=torch.float32)
    tables = tuple(torch.randn(2 * H - 1, 16, requires_grad=True) for _ in range(2))
    ours = saved(lambda: attention(q, k, v, tables, (H, W)))
    theirs = saved(lambda: naive_attention(q, k, v, relative_scores(q, tables, (H, W))))
    scores = 4 * 2 * (H * W) ** 2
    assert ours < 0.2 * scores and theirs > scores
