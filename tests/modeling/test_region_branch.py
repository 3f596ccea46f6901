"""The length variant; what it shares with the others is in test_region_variants."""

import torch
from torch import nn

from rmae_d2.modeling import RegionBranch, patchify
from tests.modeling.test_region_variants import B, inputs, predict

ATTENTION = {"query_pool": "attention"}


def test_the_region_decoder_begins_xavier_uniform():
    """Each linear layer by its own two widths, biases at 0: also those of the cross-attention."""
    branch = RegionBranch(32, (4, 4), 8, decoder_dim=32, decoder_num_heads=4, decoder_depth=3)
    parts = (branch.decoder, branch.expansion, branch.query, branch.pred)
    layers = {
        f"{i}.{name}": layer
        for i, part in enumerate(parts)
        for name, layer in part.named_modules()
        if isinstance(layer, nn.Linear)
    }
    assert len(layers) == 2 * 7 + 5 + 2
    assert {"0.0.cross_attn.q", "0.1.cross_attn.kv", "0.1.attn.qkv"} <= layers.keys()
    for name, layer in layers.items():
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert 0.97 * bound < layer.weight.abs().max() <= bound, name
        assert not layer.bias.any(), name


def test_overlapping_and_nested_regions_are_learned(make_rmae):
    """A whole, its part, that part's part, and one that crosses them: no partition, all are queries."""
    sizes = {"encoder_dim": 32, "decoder_dim": 32}
    model = make_rmae(regions=sizes, decoder=None, depth=1, mask_ratio=0.5)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    distance = ((y - 15.5) ** 2 + (x - 15.5) ** 2).sqrt()
    maps = torch.stack([distance < 15, distance < 10, distance < 5, x > 12]).expand(B, -1, -1, -1)
    images, _, ids = inputs()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        model.forward_tensors(images, maps, ids)["loss"].backward()
        optimizer.step()
    out = predict(model, images, maps, ids)
    hidden = out["mask"][:, None, :, None]
    target = patchify(maps.flatten(0, 1)[:, None], 8).unflatten(0, (B, 4))
    predicted = (out["pred_regions"] > 0) & hidden
    iou = (predicted & target).sum(dim=(2, 3)) / ((predicted | (target & hidden)).sum(dim=(2, 3)))
    assert iou.min() > 0.8


def test_attention_pooling_adds_only_its_own_tensors(make_rmae):
    mean = make_rmae().state_dict().keys()
    attention = make_rmae(regions=ATTENTION).state_dict().keys()
    assert mean <= attention
    assert {name.split(".")[1] for name in attention - mean} == {"pool"}


def test_attention_pooling_does_not_depend_on_the_order_of_visible_patches(make_rmae):
    model = make_rmae(regions=ATTENTION)
    images, regions, ids = inputs()
    other = torch.cat([ids[:, :4].flip(1), ids[:, 4:]], dim=1)
    out, again = predict(model, images, regions, ids), predict(model, images, regions, other)
    assert torch.allclose(out["pred_regions"], again["pred_regions"], rtol=1e-4, atol=1e-5)
