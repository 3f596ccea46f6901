import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from rmae_d2.modeling.transfer.upernet import (
    PyramidPooling,
    TapPyramid,
    UPerNetHead,
    averaged,
    pixel_cross_entropy,
)
from tests.modeling.transfer.helpers import TAPS, make_vit

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
WIDTHS = {"p2": 6, "p3": 8, "p4": 10, "p5": 12}
SHAPES = {name: ShapeSpec(channels=WIDTHS[name], stride=STRIDES[name]) for name in STRIDES}


def random_weights(module):
    """Every parameter and running statistic is random, so that none can be mistaken for another."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dtype == torch.float32:
                tensor.copy_(torch.rand_like(tensor) - 0.3)
        for norm in module.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.running_var.abs_().add_(0.5)
    return module


def make_head(**kwargs):
    kwargs = {"num_classes": 5, "channels": 8, "aux_channels": 4, "aux_in_feature": "p4", **kwargs}
    return random_weights(UPerNetHead(SHAPES, **kwargs))


def make_features(batch=2, size=64):
    return {
        name: torch.randn(batch, WIDTHS[name], size // stride, size // stride)
        for name, stride in STRIDES.items()
    }


# A second implementation from the paper's text, on bare tensors: batch norm is written out, pooling
# averages slices, and interpolation is a product with two matrices.


def _conv(weights, name, x, padding):
    x = F.conv2d(x, weights[f"{name}.weight"], padding=padding)
    mean, var = weights[f"{name}.norm.running_mean"], weights[f"{name}.norm.running_var"]
    scale = weights[f"{name}.norm.weight"] / (var + 1e-5).sqrt()
    shift = weights[f"{name}.norm.bias"] - mean * scale
    return (x * scale[:, None, None] + shift[:, None, None]).clamp(min=0)


def _matrix(source, target):
    """Linear interpolation between pixel centres, clamped at the ends."""
    matrix = torch.zeros(target, source)
    for i in range(target):
        place = min(max((i + 0.5) * source / target - 0.5, 0), source - 1)
        low = int(place)
        matrix[i, low] += 1 - (place - low)
        matrix[i, min(low + 1, source - 1)] += place - low
    return matrix


def _stretch(x, size):
    return _matrix(x.shape[-2], size[0]) @ x @ _matrix(x.shape[-1], size[1]).T


def _average(x, grid):
    rows = []
    for i in range(grid):
        top, bottom = i * x.shape[2] // grid, -(-(i + 1) * x.shape[2] // grid)
        row = []
        for j in range(grid):
            left, right = j * x.shape[3] // grid, -(-(j + 1) * x.shape[3] // grid)
            row.append(x[:, :, top:bottom, left:right].mean(dim=(2, 3)))
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def reference(weights, features):
    """UPerNet's logits at the image's size."""
    p2, p3, p4, p5 = (features[name] for name in STRIDES)
    parts = [p5]
    for branch, grid in enumerate((1, 2, 3, 6)):
        reduced = _conv(weights, f"pool.branches.{branch}", _average(p5, grid), 0)
        parts.append(_stretch(reduced, p5.shape[-2:]))
    m5 = _conv(weights, "pool.fuse", torch.cat(parts, 1), 1)
    m4 = _conv(weights, "lateral.2", p4, 0) + _stretch(m5, p4.shape[-2:])
    m3 = _conv(weights, "lateral.1", p3, 0) + _stretch(m4, p3.shape[-2:])
    m2 = _conv(weights, "lateral.0", p2, 0) + _stretch(m3, p2.shape[-2:])
    levels = [_conv(weights, f"smooth.{i}", m, 1) for i, m in enumerate((m2, m3, m4))] + [m5]
    fused = _conv(weights, "fuse", torch.cat([_stretch(x, p2.shape[-2:]) for x in levels], 1), 1)
    logits = F.conv2d(fused, weights["predictor.weight"], weights["predictor.bias"])
    return _stretch(logits, [4 * side for side in logits.shape[-2:]])


@pytest.mark.parametrize("size", [64, 96])
def test_equals_a_plain_implementation(size):
    head = make_head().eval()
    features = make_features(size=size)
    with torch.no_grad():
        logits, losses = head(features)
    expected = reference(head.state_dict(), features)
    assert losses == {} and logits.shape == (2, 5, size, size)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_losses_are_cross_entropies_at_the_image_size():
    head = make_head(dropout=0.0, norm="GN", channels=32, aux_channels=32, loss_weight=0.5).train()
    features, targets = make_features(), torch.randint(0, 5, (2, 64, 64))
    targets[:, :20] = 255
    _, losses = head(features, targets)
    kept = targets != 255
    for name, logits, weight in (
        ("loss_sem_seg", head.layers(features), 0.5),
        ("loss_sem_seg_aux", head.aux(features["p4"]), 0.4),
    ):
        chances = _stretch(logits, (64, 64)).softmax(dim=1)
        own = chances.permute(0, 2, 3, 1)[kept].gather(1, targets[kept][:, None])
        torch.testing.assert_close(losses[name], -weight * own.log().mean())


def test_pixels_without_a_label_do_not_count():
    logits, targets = torch.randn(2, 5, 8, 8, requires_grad=True), torch.full((2, 8, 8), 255)
    pixel_cross_entropy(logits, targets).backward()
    assert not logits.grad.any()
    targets[0, 3, 4] = 2
    loss = pixel_cross_entropy(logits, targets)
    torch.testing.assert_close(loss, -logits.log_softmax(dim=1)[0, 2, 3, 4])


def test_every_parameter_learns():
    """DDP refuses others."""
    net = make_vit(out_indices=(0, 1, 2, 3))
    pyramid = TapPyramid(net, TAPS)
    head = UPerNetHead(pyramid.output_shape(), num_classes=5, channels=32, aux_in_feature="p4")
    losses = head(pyramid(torch.randn(2, 3, 64, 64)), torch.randint(0, 5, (2, 64, 64)))[1]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in (*pyramid.parameters(), *head.parameters()))


def test_the_auxiliary_head_is_for_training_only():
    head, features = make_head().eval(), make_features()
    with torch.no_grad():
        expected = head(features)[0]
        bare = make_head(aux_in_feature=None).eval()
        bare.load_state_dict(
            {k: v for k, v in head.state_dict().items() if not k.startswith("aux.")}
        )
        assert torch.equal(bare(features)[0], expected)
    assert list(bare.train()(features, torch.zeros(2, 64, 64).long())[1]) == ["loss_sem_seg"]


def count(module):
    return sum(p.numel() for p in module.parameters())


def parameters(widths, x, c, a):
    """By hand: convolutions without bias, two numbers a channel for each norm."""
    first, last = list(widths)[:-1], list(widths)[-1]
    return {
        "lateral": sum(width * x + 2 * x for width in first),
        "pool": 4 * (last * x + 2 * x) + (last + 4 * x) * x * 9 + 2 * x,
        "smooth": len(first) * (x * x * 9 + 2 * x),
        "fuse": (len(first) + 1) * x * x * 9 + 2 * x,
        "predictor": x * c + c,
        "aux": first[-1] * a * 9 + 2 * a + a * c + c,
    }


def test_parameter_count():
    head, expected = make_head(), parameters(WIDTHS.values(), x=8, c=5, a=4)
    assert {name: count(getattr(head, name)) for name in expected} == expected
    assert count(head) == sum(expected.values())


def test_registered_and_built_from_yacs():
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD = CfgNode(
        {
            "NAME": "UPerNetHead",
            "IN_FEATURES": ["p3", "p4", "p5"],
            "NUM_CLASSES": 7,
            "CONVS_DIM": 32,
            "NORM": "GN",
            "LOSS_WEIGHT": 1.0,
            "IGNORE_VALUE": 255,
        }
    )
    head = SEM_SEG_HEADS_REGISTRY.get("UPerNetHead")(cfg, SHAPES)
    assert isinstance(head, UPerNetHead) and head.in_features == ["p3", "p4", "p5"]
    logits, _ = head.eval()(make_features())
    assert logits.shape == (2, 7, 64, 64)


def test_taps_become_a_pyramid():
    net = make_vit(out_indices=(0, 1, 2, 3))
    pyramid = random_weights(TapPyramid(net, TAPS, norm="BN")).eval()
    shapes = pyramid.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == STRIDES
    assert pyramid.size_divisibility == pyramid.padding_constraints["size_divisibility"] == 32
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps, taps = pyramid(images), net(images)
    for name, x in maps.items():
        assert x.shape == (2, 32, 64 // STRIDES[name], 96 // STRIDES[name])
    assert torch.equal(maps["p4"], taps["block2"])
    weights = pyramid.state_dict()
    once = F.conv_transpose2d(
        taps["block1"], weights["resample.1.weight"], weights["resample.1.bias"], stride=2
    )
    torch.testing.assert_close(maps["p3"], once)
    halves = taps["block3"].unflatten(2, (2, 2)).unflatten(4, (3, 2)).amax(dim=(3, 5))
    assert torch.equal(maps["p5"], halves)
    norm = pyramid.resample[0][1]
    twice = F.conv_transpose2d(
        taps["block0"], weights["resample.0.0.weight"], weights["resample.0.0.bias"], stride=2
    )
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    twice = (twice - norm.running_mean[:, None, None]) * scale[:, None, None]
    twice = F.gelu(twice + norm.bias[:, None, None])
    twice = F.conv_transpose2d(
        twice, weights["resample.0.3.weight"], weights["resample.0.3.bias"], stride=2
    )
    torch.testing.assert_close(maps["p2"], twice, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("features", [TAPS[:3], [*TAPS[:3], "block7"]])
def test_taps_that_do_not_exist(features):
    with pytest.raises(ValueError, match="four outputs of the ViT, which has block0, block1"):
        TapPyramid(make_vit(out_indices=(0, 1, 2, 3)), features)


@pytest.mark.parametrize("norm, fine", [("BN", False), ("SyncBN", False), ("LN", True)])
def test_one_image_and_batch_norm(norm, fine):
    pool = PyramidPooling(32, 32, (1, 2), norm)
    if fine:
        assert pool(torch.randn(1, 32, 4, 4)).shape == (1, 32, 4, 4)
        return
    with pytest.raises(ValueError, match=r"one image at a time.*model.backbone.norm=LN"):
        pool(torch.randn(1, 32, 4, 4))
    assert pool.eval()(torch.randn(1, 32, 4, 4)).shape == (1, 32, 4, 4)


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="aux_in_feature='p7' is none of p2, p3"):
        UPerNetHead(SHAPES, num_classes=2, aux_in_feature="p7")
    with pytest.raises(ValueError, match="two levels or more"):
        UPerNetHead({"p2": SHAPES["p2"]}, num_classes=2)
    shapes = {"a": ShapeSpec(channels=32, stride=8), "b": ShapeSpec(channels=32, stride=16)}
    head = UPerNetHead(shapes, num_classes=3, channels=32)
    assert head.stride == 8 and head.in_features == ["a", "b"]


@pytest.mark.parametrize("grid", [1, 2, 3, 6])
def test_averages_as_products(grid):
    """What an exported graph has in place of torch's own, for sides smaller than the grid too."""
    for shape in ((2, 3, 7, 10), (1, 2, 4, 5)):
        x = torch.randn(shape)
        torch.testing.assert_close(averaged(x, grid), F.adaptive_avg_pool2d(x, grid))
