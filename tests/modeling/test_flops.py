import pytest
import torch
from torch import nn

from rmae_d2.modeling import RMAE, build_parts, vit_kwargs
from rmae_d2.modeling.flops import count_by_part, count_flops, part_of


def test_parts_of_a_small_network():
    model = nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Linear(5, 6), nn.ReLU()))
    x = torch.ones(2, 4)
    with count_flops(model) as counter:
        assert not model(x).requires_grad
    assert counter.get_total_flops() == 2 * 2 * (4 * 5 + 5 * 6)
    parts = {"first": "0", "inner": "1.0", "second": "1", "rest": ""}
    with count_by_part(model, parts) as flops:
        model(x)
    assert flops == {"first": 2 * 2 * 20, "inner": 2 * 2 * 30, "second": 0, "rest": 0}
    assert model(x).requires_grad and not model[0]._forward_hooks
    assert [part_of(name, parts) for name in ("0.bias", "1.0.bias", "1.1", "10")] == [
        *("first", "inner", "second", "rest")
    ]


def test_mae_as_the_reference_code_computes_it():
    """All patches embedded, all predicted; ours, visible and hidden ones only, has 9.675 (the docs)."""
    with torch.device("meta"):
        model = RMAE(**build_parts(**vit_kwargs("base"), pixel_decoder={}, region_branch=None))
        net, decoder, visible = model.backbone.net, model.pixel_decoder, torch.arange(49)[None]
        with count_flops(model) as counter:
            net.patch_embed.proj(torch.zeros(1, 3, 224, 224))
            x = torch.zeros(1, 50, 768)
            for block in net.blocks:
                x = block(x)
            decoder.pred(decoder(x, visible))
    assert counter.get_total_flops() / 2e9 == pytest.approx(9.781, abs=0.0005)
