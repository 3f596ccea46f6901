"""The transfer backbone: Detectron2's ViT and simple feature pyramid (ViTDet, section 3), made faster.

Parameters, their names, initial values and outputs match those of Detectron2's classes (Apache-2.0), whose
modules are reused; checkpoints are interchangeable. Letters: B images, H W token rows and columns, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.modeling.backbone import vit as detectron2_vit
from detectron2.modeling.backbone.utils import get_abs_pos
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import UserError
from .vit_attention import attention


class Attention(detectron2_vit.Attention):
    """Multi-head attention within windows, or over the whole grid."""

    def forward(self, x: Tensor, window_size: int = 0) -> Tensor:
        """(B, H, W, D) -> (B, H, W, D), in windows of that side in tokens; 0 for one window of all tokens."""
        B, H, W, D = x.shape
        head = D // self.num_heads
        size = (window_size, window_size) if window_size else (H, W)
        qkv = self._pad(self.qkv(x), -H % size[0], -W % size[1])
        rows, columns = qkv.shape[1] // size[0], qkv.shape[2] // size[1]
        qkv = qkv.view(B, rows, size[0], columns, size[1], 3, self.num_heads, head)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
            3, B * rows * columns, self.num_heads, size[0] * size[1], head
        )
        q, k, v = qkv.unbind(0)
        rel_pos = (self.rel_pos_h, self.rel_pos_w) if self.use_rel_pos else None
        out = attention(q, k, v, rel_pos, size)
        out = out.reshape(B, rows, columns, self.num_heads, *size, head)
        out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(B, rows * size[0], columns * size[1], D)
        return self.proj(out[:, :H, :W])

    def _pad(self, qkv: Tensor, bottom: int, right: int) -> Tensor:
        """Pads incomplete windows as Detectron2 does, which pads their input with zeros.

        A zero token's q, k and v are the bias; other tokens do attend to it. Padding here instead of
        before keeps padding out of both linear layers: a fifth of their work for windows at 1024 pixels.
        """
        if not (bottom or right):
            return qkv
        B, H, W, X = qkv.shape
        bias = self.qkv.bias
        fill = qkv.new_zeros(X) if bias is None else bias.to(qkv.dtype)
        qkv = torch.cat([qkv, fill.expand(B, H, right, X)], dim=2)
        return torch.cat([qkv, fill.expand(B, bottom, W + right, X)], dim=1)


class Block(detectron2_vit.Block):
    """A transformer block; windows are cut inside the attention."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D) -> (B, H, W, D)."""
        x = x + self.drop_path(self.attn(self.norm1(x), self.window_size))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        if self.use_residual_block:
            x = self.residual(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x


class SequenceAttention(detectron2_vit.Attention):
    """Multi-head attention over the whole grid and a leading cls token, which has no relative position."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 1 + H * W, D) -> (B, 1 + H * W, D), ``size`` being (H, W)."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        rel_pos = (self.rel_pos_h, self.rel_pos_w) if self.use_rel_pos else None
        return self.proj(attention(q, k, v, rel_pos, size).transpose(1, 2).flatten(2))


class SequenceBlock(detectron2_vit.Block):
    """A transformer block over such a sequence."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 1 + H * W, D) -> (B, 1 + H * W, D)."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT(detectron2_vit.ViT):
    """Detectron2's ViT with faster attention, activation checkpointing and several outputs.

    As in Detectron2, pixels right of and below the last whole patch are dropped; its models pad images
    according to `padding_constraints`, so that there are none.

    Args:
        img_size: side in pixels for which global blocks have relative positions; other sizes interpolate.
        patch_size: pixels.
        norm_layer: ViTDet's configs, and all of MAE's weights, require an eps of 1e-6.
        window_block_indexes: blocks with attention in windows of ``window_size`` tokens per side.
        residual_block_indexes: blocks that end in a convolutional bottleneck.
        use_act_checkpoint: recompute each block in the backward pass instead of keeping its activations;
            uses torch's own checkpointing, which works in DDP and redraws the same drop paths.
        pretrain_img_size: side in pixels of the images for which ``pos_embed`` is made: those of
            pre-training, or ``img_size`` to train a table of that size. Weights of another grid are resized
            once, when they are loaded; for images of another size, the table is interpolated in every pass.
        pretrain_use_cls_token: whether ``pos_embed`` has a row for a cls token, which only
            ``keep_cls_token`` uses.
        keep_cls_token: let patches and the pre-trained cls token attend to each other, as in MAE's and BEiT's
            transfer to segmentation; outputs are of the patches. Global attention only. Detectron2's
            ViT has no such token.
        out_feature: name of the last block's output.
        out_indices: blocks, counted from 0, whose outputs are features too: ``"block3"`` after block 3.
    """

    _out_features: list[str]

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer: Callable[..., nn.Module] = nn.LayerNorm,
        act_layer: Callable[..., nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        window_block_indexes: Sequence[int] = (),
        residual_block_indexes: Sequence[int] = (),
        use_act_checkpoint: bool = False,
        pretrain_img_size: int = 224,
        pretrain_use_cls_token: bool = True,
        out_feature: str = "last_feat",
        out_indices: Sequence[int] = (),
        keep_cls_token: bool = False,
    ) -> None:
        if keep_cls_token and (window_block_indexes or residual_block_indexes):
            raise UserError(
                "keep_cls_token=True with window_block_indexes or residual_block_indexes: a cls token lies "
                "in no window and on no grid. Empty both, or set model.backbone.net.keep_cls_token=false"
            )
        if keep_cls_token and not (use_abs_pos and pretrain_use_cls_token):
            raise UserError(
                "keep_cls_token=True needs the cls token's row in pos_embed: use_abs_pos=True and "
                "pretrain_use_cls_token=True"
            )
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop_path_rate=drop_path_rate,
            norm_layer=norm_layer,
            act_layer=act_layer,
            use_abs_pos=use_abs_pos,
            use_rel_pos=use_rel_pos,
            rel_pos_zero_init=rel_pos_zero_init,
            window_size=window_size,
            window_block_indexes=window_block_indexes,
            residual_block_indexes=residual_block_indexes,
            pretrain_img_size=pretrain_img_size,
            pretrain_use_cls_token=pretrain_use_cls_token,
            out_feature=out_feature,
        )
        for block in self.blocks:
            # Same modules with another forward: building our own would draw different initial values.
            block.__class__ = SequenceBlock if keep_cls_token else Block
            block.attn.__class__ = SequenceAttention if keep_cls_token else Attention
        self.cls_token: nn.Parameter | None = None
        if keep_cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim).normal_(std=0.02))
        self.patch_size = patch_size
        self.use_act_checkpoint = use_act_checkpoint
        self.out_indices = tuple(sorted(set(out_indices)))
        unknown = [i for i in self.out_indices if i not in range(depth)]
        if unknown:
            raise UserError(f"out_indices {unknown}: the ViT has blocks 0 to {depth - 1}")
        self._out_features = [*map(_tap, self.out_indices), out_feature]
        self._out_feature_channels = dict.fromkeys(self._out_features, embed_dim)
        self._out_feature_strides = dict.fromkeys(self._out_features, patch_size)

    @property
    def size_divisibility(self) -> int:
        """Divisor required of image sides, pixels."""
        return self.patch_size

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.patch_size}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Computes features of normalised images, (B, 3, height, width) -> name to (B, D, H, W)."""
        x, *size = self.embed(x)
        outputs = {}
        recompute = self.use_act_checkpoint and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            x = checkpoint(block, x, *size, use_reentrant=False) if recompute else block(x, *size)
            if i in self.out_indices:
                outputs[_tap(i)] = _map_of(x, *size)
        outputs[self._out_features[-1]] = _map_of(x, *size)
        return outputs

    def embed(self, images: Tensor) -> tuple[Any, ...]:
        """Computes block inputs: tokens (B, H, W, D); with a cls token (B, 1 + H * W, D), and (H, W)."""
        x = self.patch_embed(images)
        size = (x.shape[1], x.shape[2])
        if self.pos_embed is not None:
            x = x + get_abs_pos(self.pos_embed, self.pretrain_use_cls_token, size)
        if self.cls_token is None:
            return (x,)
        cls_token = (self.cls_token + self.pos_embed[:, :1]).to(x.dtype)
        return torch.cat([cls_token.expand(x.shape[0], -1, -1), x.flatten(1, 2)], dim=1), size


def _map_of(x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Converts a block's output to a map (B, D, H, W), without the cls token."""
    x = x if size is None else x[:, 1:].unflatten(1, size)
    return x.permute(0, 3, 1, 2)


def _tap(index: int) -> str:
    return f"block{index}"


class SimpleFeaturePyramid(detectron2_vit.SimpleFeaturePyramid):
    """Detectron2's pyramid with working padding.

    Detectron2's own reports its divisor as "size_divisiblity", which ``ImageList`` does not know: without
    ``square_pad``, images keep sizes for which the levels p2 to p5 do not match (detectron2 issue 4676).
    """

    @property
    def size_divisibility(self) -> int:
        """Divisor required of image sides: the stride of the coarsest scale, pixels."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self._size_divisibility, "square_size": self._square_pad}
