"""A straightforward implementation of R-MAE's step as a baseline: the same weights, losses and gradients.

All patches of image and region maps are embedded and predicted, losses are masked afterwards;
attention is matrix products and a softmax; images and region maps arrive as float32; no kernel is fused.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...modeling import RMAE, Batch, mask_from_order, patchify
from ...modeling.losses import patch_statistics
from ...noise import random_shuffle


class PlainRMAE(nn.Module):
    """A copy of a model with the length variant's region branch, or without one, computed plainly.

    Args:
        model: its weights are copied.
    """

    def __init__(self, model: RMAE) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        module: Any
        for module in self.model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False

    def prepare(self, batch: Batch) -> list[dict[str, Any]]:
        """Returns what a plain loader would deliver: normalised float images, float region maps."""
        images = self.model.normalize(batch.images.to(self.model.device)).cpu()
        samples = [
            {"image": image, "mask_seed": x["mask_seed"]}
            for image, x in zip(images, batch.facts, strict=True)
        ]
        if (regions := batch.region_maps()) is not None:
            for sample, maps in zip(samples, regions.float(), strict=True):
                sample["regions"] = maps
        return samples

    def forward(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Computes the losses for the output of `prepare`."""
        model, net = self.model, self.model.backbone.net
        images = torch.stack([x["image"] for x in samples]).to(model.device)
        seeds = torch.tensor([x["mask_seed"] for x in samples], device=model.device)
        ids = random_shuffle(seeds, net.num_patches)
        V = int(net.num_patches * (1 - model.mask_ratio))
        visible, mask = ids[:, :V], mask_from_order(ids, V).float()
        every = torch.arange(net.num_patches, device=model.device).expand_as(ids)

        x = net.patch_embed.proj(images).flatten(2).transpose(1, 2) + net.pos_embed[:, 1:]
        cls_token = (net.cls_token + net.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = x.gather(1, visible[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([cls_token, x], dim=1)
        for block in net.blocks:
            x = block(x)
        tokens = net.norm(x)

        losses = {}
        if model.pixel_decoder is not None:
            target = patchify(images, net.patch_size)
            if model.norm_pix_loss:
                mean, std = patch_statistics(target)
                target = (target - mean) / std
            error = (model.pixel_decoder.decode(tokens, visible, every).float() - target).square()
            losses["loss_pixel"] = (error.mean(-1) * mask).sum() / mask.sum()
        if model.region_branch is not None:
            regions = torch.stack([x["regions"] for x in samples]).to(model.device)
            logits = self._regions(regions, tokens, visible, every)
            maps = patchify(regions.flatten(0, 1)[:, None], net.patch_size)
            target = maps.unflatten(0, regions.shape[:2])
            error = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
            losses["loss_region"] = (error.mean((1, 3)) * mask).sum() / mask.sum()
        return losses

    def _regions(self, regions: Tensor, tokens: Tensor, visible: Tensor, every: Tensor) -> Tensor:
        branch: Any = self.model.region_branch
        memory = branch.neck.norm(branch.neck(tokens, visible))
        encoder = branch.encoder
        x = encoder.patch_embed.proj(regions.flatten(0, 1)[:, None] - 0.5)
        x = (x.flatten(2).transpose(1, 2) + encoder.pos_embed).unflatten(0, regions.shape[:2])
        _, K, _, D = x.shape
        x = x.gather(2, visible[:, None, :, None].expand(-1, K, -1, D)).flatten(0, 1)
        for block in encoder.blocks:
            x = block(x)
        queries = branch.query(x.mean(1).unflatten(0, regions.shape[:2]))
        for block in branch.decoder:
            queries = block(queries, memory)
        values = memory[:, 1:].gather(1, every[:, :, None].expand(-1, -1, memory.shape[2]))
        return branch.pred(branch.expansion(queries, values))
