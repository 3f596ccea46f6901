"""Attention with decomposed relative positions that does not keep the scores of all pairs.

Detectron2's ViT adds ``rel_h[q, row of k] + rel_w[q, column of k]`` to the scores (MViTv2, section 4.1) and
keeps their softmax for the backward pass: 805 MB per image and block at 1024 pixels, ViT-B. The functions
here give the same output and gradients from the queries' own sums, (L, H) and (L, W).

Letters: N images times windows, A heads, L tokens, C width of a head, H W token rows and columns of a window,
whose tokens are the last H * W in raster order. Tokens before them, such as a cls token, have no position:
their scores, as queries and as keys, are unchanged.

Measured at 1024 pixels, ViT-B, fp32, two CPU threads, forward and backward of the attention alone, relative
to Detectron2's: global blocks 0.29 of the time and 0.03 of the memory in chunks, 0.47 with widened keys, 0.51
with the bias as SDPA's mask (and its memory); 14x14 windows 0.82, 0.96 and 0.86.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ... import compat

# Scores computed at a time: 8 MB in fp32, which fits a CPU's caches; half and twice as many were slower.
_CHUNK = 2**21


def relative_table(table_RC: Tensor, size: int) -> Tensor:
    """Looks up embeddings of all pairs of positions along one side, like Detectron2's ``get_rel_pos``.

    The indices are created on the table's device; Detectron2 copies them from the host in every call. The
    table, of 2 * size - 1 distances or interpolated to that many, becomes (size, size, C), query first.
    """
    length = 2 * size - 1
    if len(table_RC) != length:
        table_RC = F.interpolate(table_RC.T[None], size=length, mode="linear")[0].T
    positions = torch.arange(size, device=table_RC.device)
    return table_RC[positions[:, None] - positions[None, :] + size - 1]


def attention(
    q: Tensor, k: Tensor, v: Tensor, rel_pos: tuple[Tensor, Tensor] | None, size: tuple[int, int]
) -> Tensor:
    """Computes softmax(q k^T / sqrt(C) + relative positions) v in the way that suits device and dtype.

    CPU: chunks (fastest in the measurements above). Only plain fp32 uses SDPA, in 0.8 of the chunks'
    time; in bf16 SDPA's backward pass is slower than matrix products. GPU: SDPA, for its flash kernels.

    Args:
        q, k, v: (N, A, L, C), like the result.
        rel_pos: tables (2 * H - 1, C) and (2 * W - 1, C), or None.
        size: (H, W).
    """
    on_cpu = q.device.type == "cpu"
    if rel_pos is None:
        if on_cpu and q.dtype != torch.float32:
            return chunked_attention(q, k, v, None)
        return F.scaled_dot_product_attention(q, k, v)
    rel = relative_scores(q, rel_pos, size)
    if compat.is_exporting():  # chunks would become hundreds of graph nodes
        bias = relative_bias(*rel, k.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return (chunked_attention if on_cpu else widened_attention)(q, k, v, rel)


def relative_scores(
    q: Tensor, rel_pos: tuple[Tensor, Tensor], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Score terms of relative positions: by key row (N, A, L, H) and key column (N, A, L, W)."""
    H, W = size
    before = q.shape[2] - H * W
    q_NAHWC = q[:, :, before:].unflatten(2, size)
    rel_h = torch.einsum("nahwc,hkc->nahwk", q_NAHWC, relative_table(rel_pos[0], H)).flatten(2, 3)
    rel_w = torch.einsum("nahwc,wkc->nahwk", q_NAHWC, relative_table(rel_pos[1], W)).flatten(2, 3)
    if before:
        rel_h, rel_w = (F.pad(rel, (0, 0, before, 0)) for rel in (rel_h, rel_w))
    return rel_h, rel_w


def relative_bias(rel_h: Tensor, rel_w: Tensor, num_keys: int) -> Tensor:
    """Spreads `relative_scores` of some queries (..., H), (..., W) over all keys, (..., num_keys)."""
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
    before = num_keys - bias.shape[-1]
    return F.pad(bias, (before, 0)) if before else bias


def widened_attention(q: Tensor, k: Tensor, v: Tensor, rel: tuple[Tensor, Tensor]) -> Tensor:
    """Attention by SDPA, whose flash kernels take no bias: relative positions become extra dimensions.

    [q / sqrt(C), rel_h, rel_w] . [k, one-hot row, one-hot column] = the biased score, exactly. In half
    precision, flash kernels need v as wide as q and k, at most 256; other kernels accept v as it is.
    """
    N, A, L, C = q.shape
    H, W = rel[0].shape[-1], rel[1].shape[-1]
    rows = torch.eye(H, dtype=k.dtype, device=k.device).repeat_interleave(W, dim=0)
    columns = torch.eye(W, dtype=k.dtype, device=k.device).repeat(H, 1)
    before = L - H * W
    # The kernels require multiples of 8.
    fill = -(C + H + W) % 8
    wide_q = F.pad(torch.cat([q * C**-0.5, *rel], dim=-1), (0, fill))
    one_hot = F.pad(torch.cat([rows, columns], dim=-1), (0, fill, before, 0)).expand(N, A, L, -1)
    wide_k = torch.cat([k, one_hot], dim=-1)
    width = wide_k.shape[-1]
    if q.dtype in (torch.float16, torch.bfloat16) and width <= 256:
        v = F.pad(v, (0, width - C))
    return F.scaled_dot_product_attention(wide_q, wide_k, v, scale=1.0)[..., :C]


def chunked_attention(q: Tensor, k: Tensor, v: Tensor, rel: tuple[Tensor, Tensor] | None) -> Tensor:
    """Computes attention by matrix products over chunks of queries; the backward pass recomputes scores."""
    flat = [x.flatten(0, 1) for x in (q, k, v, *(rel or ()))]
    # Without gradients, the operations stay visible to tracers such as FLOP counters.
    out = _Chunked.apply(*flat) if torch.is_grad_enabled() else _forward(*flat)
    return out.unflatten(0, q.shape[:2])


def _chunks(q: Tensor) -> list[tuple[slice, slice]]:
    """Splits the work into as many whole heads as fit, or parts of one head's queries."""
    B, L, _ = q.shape
    heads, queries = max(_CHUNK // L**2, 1), max(_CHUNK // L, 1)
    return [
        (slice(b, b + heads), slice(t, t + queries))
        for b in range(0, B, heads)
        for t in range(0, L, queries)
    ]


def _weights(q: Tensor, k: Tensor, rel: tuple[Tensor, ...]) -> Tensor:
    """Softmax of a chunk's scores, at least in float32."""
    scaled, k_t, dtype = q * q.shape[-1] ** -0.5, k.transpose(1, 2), _wide(q)
    if not rel:
        scores = torch.bmm(scaled, k_t).to(dtype)
    else:
        rel_h, rel_w = (r.to(dtype) for r in rel)
        scores = relative_bias(rel_h, rel_w, k.shape[1])
        if q.dtype == dtype:
            scores.baddbmm_(scaled, k_t)  # one pass fewer over the scores
        else:
            scores += torch.bmm(scaled, k_t)
    return scores.softmax(-1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _forward(q: Tensor, k: Tensor, v: Tensor, *rel: Tensor) -> Tensor:
    out = torch.empty_like(q)
    for b, t in _chunks(q):
        weights = _weights(q[b, t], k[b], tuple(r[b, t] for r in rel))
        out[b, t] = torch.bmm(weights.to(v.dtype), v[b])
    return out


class _Chunked(torch.autograd.Function):
    """Attention over (B, L, C) heads that saves only its inputs and output for the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, *rel: Tensor) -> Tensor:
        out = _forward(q, k, v, *rel)
        ctx.save_for_backward(q, k, v, out, *rel)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, out, *rel = ctx.saved_tensors  # type: ignore[attr-defined]
        dtype, scale = _wide(q), q.shape[-1] ** -0.5
        dq, drel = torch.empty_like(q), tuple(torch.empty_like(r) for r in rel)
        # Sums over the chunks, transposed: this way the products take 0.55 to 0.8 of the time.
        dk, dv = (x.new_zeros((*x.shape[:1], x.shape[2], x.shape[1]), dtype=dtype) for x in (k, v))
        # What softmax subtracts from its gradient: sum(dweights * weights) = sum(grad * out).
        shared = (grad * out).sum(-1, keepdim=True, dtype=dtype)
        for b, t in _chunks(q):
            weights = _weights(q[b, t], k[b], tuple(r[b, t] for r in rel))
            dv[b] += torch.bmm(grad[b, t].transpose(1, 2), weights.to(q.dtype))
            dscores = torch.bmm(grad[b, t], v[b].transpose(1, 2)).to(dtype)
            dscores.sub_(shared[b, t]).mul_(weights)
            if rel:
                H, W = rel[0].shape[-1], rel[1].shape[-1]
                grid = dscores[:, :, -H * W :].unflatten(2, (H, W))
                drel[0][b, t] = grid.sum(-1)
                drel[1][b, t] = grid.sum(-2)
            dscores = dscores.to(q.dtype)
            dq[b, t] = torch.bmm(dscores, k[b]) * scale
            dk[b] += torch.bmm((q[b, t] * scale).transpose(1, 2), dscores)
        return dq, dk.to(k.dtype).transpose(1, 2), dv.to(v.dtype).transpose(1, 2), *drel
