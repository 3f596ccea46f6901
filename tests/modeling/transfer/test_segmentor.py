import itertools

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone, SemanticSegmentor
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rmae_d2.modeling import SimpleFeaturePyramid
from rmae_d2.modeling.transfer import segmentor as semantic_segmentor
from rmae_d2.modeling.transfer.segmentor import (
    MultiScale,
    SlidingSemanticSegmentor,
    labels_at,
    resized_strips,
    scores_at,
    window_slices,
)
from rmae_d2.modeling.transfer.upernet import TapPyramid, UPerNetHead
from tests.modeling.transfer.helpers import TAPS, make_vit

PIXELS = {"pixel_mean": [100.0, 110.0, 120.0], "pixel_std": [50.0, 60.0, 70.0]}


def upernet():
    backbone = TapPyramid(make_vit(out_indices=(0, 1, 2, 3)), TAPS)
    head = UPerNetHead(
        backbone.output_shape(), num_classes=5, channels=32, aux_in_feature="p4", norm="LN"
    )
    return {"backbone": backbone, "sem_seg_head": head}


def semantic_fpn():
    backbone = SimpleFeaturePyramid(make_vit(), "last_feat", 32, (4.0, 2.0, 1.0, 0.5), norm="LN")
    head = SemSegFPNHead(
        backbone.output_shape(),
        num_classes=5,
        conv_dims=32,
        common_stride=4,
        norm="GN",
        ignore_value=255,
    )
    return {"backbone": backbone, "sem_seg_head": head}


PARTS = {"upernet": upernet, "semantic_fpn": semantic_fpn}


def make_model(parts="upernet", **kwargs):
    torch.manual_seed(1)
    kwargs = {"window": 64, "stride": 40, "windows_per_batch": 3, **kwargs}
    model = SlidingSemanticSegmentor(**PARTS[parts](), **PIXELS, **kwargs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


class PixelBackbone(Backbone):
    """The image itself, at every second pixel: a network that sees no further than two pixels."""

    def __init__(self):
        super().__init__()
        self._out_features = ["pixels"]
        self._out_feature_channels, self._out_feature_strides = {"pixels": 3}, {"pixels": 2}

    @property
    def size_divisibility(self):
        return 2

    def forward(self, images):
        return {"pixels": F.avg_pool2d(images, 2)}


class PixelHead(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.layer = nn.Conv2d(3, num_classes, 1)

    def forward(self, features, targets=None):
        x = self.layer(features["pixels"])
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), {}


def pixel_model(num_classes=4, **kwargs):
    kwargs = {"inference": "slide", "window": 16, "stride": 6, **kwargs}
    parts = {"backbone": PixelBackbone(), "sem_seg_head": PixelHead(num_classes)}
    return SlidingSemanticSegmentor(**parts, **PIXELS, **kwargs).eval()


def image(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("parts", PARTS)
def test_whole_is_detectron2s(parts):
    model = make_model(parts)
    theirs = SemanticSegmentor(
        backbone=model.backbone, sem_seg_head=model.sem_seg_head, **PIXELS
    ).eval()
    samples = [{"image": image(64, 90), "height": 130, "width": 45}]
    with torch.no_grad():
        expected = theirs(samples)[0]["sem_seg"]
    found = model(samples)[0]
    assert found["inference"] == "whole image; scale 1" and not found["sem_seg"].requires_grad
    torch.testing.assert_close(found["sem_seg"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("size", [(64, 64), (50, 64), (33, 20)])
def test_slide_is_whole_where_one_window_suffices(parts, size):
    samples = [{"image": image(*size)}]
    model = make_model(parts)
    whole = model(samples)[0]["sem_seg"]
    model.inference_mode = "slide"
    assert torch.equal(model(samples)[0]["sem_seg"], whole) and whole.shape == (5, *size)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("size", [(64, 100), (100, 137), (40, 150)])
def test_slide_averages_windows(parts, size):
    """Against one pass per window, summed in the plainest way."""
    model = make_model(parts, inference="slide")
    pixels = image(*size)
    total, count = torch.zeros(5, *size), torch.zeros(size)
    h, w = min(64, size[0]), min(64, size[1])
    tops, lefts = (
        [*range(0, side - n, 40), side - n] for side, n in zip(size, (h, w), strict=True)
    )
    whole = make_model(parts)
    for y, x in itertools.product(tops, lefts):
        total[:, y : y + h, x : x + w] += whole([{"image": pixels[:, y : y + h, x : x + w]}])[0][
            "sem_seg"
        ]
        count[y : y + h, x : x + w] += 1
    found = model([{"image": pixels}])[0]
    torch.testing.assert_close(found["sem_seg"], total / count, rtol=1e-4, atol=1e-4)
    assert found["inference"] == "sliding window of 64 pixels, stride 40; scale 1"


@pytest.mark.parametrize(
    ("side", "starts"),
    [(512, [0]), (513, [0, 1]), (683, [0, 171]), (853, [0, 341]), (854, [0, 341, 342])]
    + [(1365, [0, 341, 682, 853]), (2048, [0, 341, 682, 1023, 1364, 1536])],
)
def test_windows_lie_as_published(side, starts):
    """512 wide, 341 apart; as many as mmsegmentation counts, the last moved back to the edge."""
    assert len(starts) == max(side - 512 + 341 - 1, 0) // 341 + 1
    assert window_slices(side, 512, 341) == [slice(start, start + 512) for start in starts]


@given(side=st.integers(1, 300), window=st.integers(1, 90), data=st.data())
def test_windows_cover_every_pixel(side, window, data):
    stride = data.draw(st.integers(1, window))
    slices = window_slices(side, window, stride)
    covered = torch.zeros(side)
    for part in slices:
        assert part.stop - part.start == min(window, side) and part.start >= 0
        covered[part] += 1
    assert covered.min() >= 1 and slices[0].start == 0 and slices[-1].stop == side
    starts = [part.start for part in slices]
    assert starts == sorted(set(starts)) and all(
        b - a == stride for a, b in itertools.pairwise(starts[:-1])
    )
    assert (
        len(slices) == max(side - window + stride - 1, 0) // stride + 1
    )  # mmsegmentation's number


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    strip=st.integers(1, 4000),
)
def test_strips_are_interpolation(size, target, strip):
    scores = torch.randn(3, *size, generator=torch.Generator().manual_seed(sum(size)))
    expected = F.interpolate(scores[None], target, mode="bilinear", align_corners=False)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic_segmentor, "STRIP_VALUES", strip)
        strips = list(resized_strips(scores, target))
        torch.testing.assert_close(scores_at(scores, target), expected, rtol=1e-4, atol=1e-5)
        labels = labels_at(scores, target)
    assert torch.equal(labels, torch.cat([x for _, x in strips], dim=1).argmax(dim=0).int())
    assert [rows.start for rows, _ in strips][1:] == [rows.stop for rows, _ in strips][:-1]
    assert all(part.numel() <= max(strip, 3 * target[1]) for _, part in strips)


class LargestTensor(TorchDispatchMode):
    """The most values that any result of an operation has."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            self.values = max(self.values, out.untyped_storage().nbytes() // out.element_size())
        return out


def test_memory_of_large_results_is_bounded(monkeypatch):
    monkeypatch.setattr(semantic_segmentor, "STRIP_VALUES", 2**14)
    classes, sample = 50, {"image": image(64, 80), "height": 600, "width": 450}
    found = {}
    for output in ("labels", "logits"):
        with LargestTensor() as largest:
            found[output] = pixel_model(classes, output=output)([sample])[0]
        found[output]["largest"] = largest.values
    # The network's own 50 x 64 x 80 is the largest, four windows of 50 x 16 x 16 are less.
    assert found["labels"]["largest"] <= classes * 64 * 80
    assert found["logits"]["largest"] == classes * 600 * 450
    labels = found["labels"]["sem_seg_labels"]
    assert labels.shape == (600, 450) and labels.dtype == torch.int32
    assert "sem_seg" not in found["labels"]


def test_memory_of_windows_is_bounded():
    """However many windows there are, only a few logits exist beside the sum."""
    classes = 20
    for batch in (1, 4):
        model = pixel_model(classes, stride=2, windows_per_batch=batch, output="labels")
        with LargestTensor() as largest:
            model([{"image": image(16, 300)}])
        assert largest.values == classes * 16 * 300
        with LargestTensor() as largest:
            model._logits([image(16, 16).float()] * batch)
        assert largest.values <= batch * classes * 16 * 16


def test_nan_is_no_class():
    scores = torch.randn(3, 2, 2)
    scores[1, 0, 1] = torch.nan
    assert (labels_at(scores, (2, 2)) == -1).tolist() == [[False, True], [False, False]]


# Several scales.


def test_several_scales_are_mean_probabilities():
    model = make_model(multi_scale=MultiScale((0.5, 1.0, 1.5), flip=True))
    plain, small = make_model(), image(64, 80)
    total = torch.zeros(5, 64, 80)
    for scale, flip in itertools.product((0.5, 1.0, 1.5), (False, True)):
        view = small.float()[None]
        view = (
            view
            if scale == 1
            else F.interpolate(view, scale_factor=scale, mode="bilinear", antialias=True)
        )
        view = view.flip(-1) if flip else view
        logits = plain([{"image": view[0]}])[0]["sem_seg"]
        logits = logits.flip(-1) if flip else logits
        logits = F.interpolate(logits[None], (64, 80), mode="bilinear", align_corners=False)
        total += logits[0].softmax(dim=0)
    found = model([{"image": small}])[0]
    torch.testing.assert_close(found["sem_seg"], total / 6, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["sem_seg"].sum(dim=0), torch.ones(64, 80))
    assert found["inference"] == "whole image; scales 0.5, 1, 1.5, mirrored too"


def test_other_scales_come_from_the_original():
    """A pattern that the test size has lost is seen at scale 2."""
    original = torch.zeros(3, 64, 64, dtype=torch.uint8)
    original[:, :, ::2] = 255
    grey = torch.full((3, 32, 32), 127, dtype=torch.uint8)
    seen = []

    def predict(view):
        seen.append(view)
        return view

    scale = MultiScale((1.0, 2.0))
    scale(predict, grey.float(), original.float())
    assert seen[0].std() == 0 and torch.equal(seen[1], original.float())
    seen.clear()
    scale(predict, grey.float())
    assert seen[1].shape == (3, 64, 64) and seen[1].std() == 0


# Training.


@pytest.mark.parametrize("parts", PARTS)
def test_losses(parts):
    """Padding, here of the second image, has no part in them."""
    model = make_model(parts).train()
    samples = [
        {"image": image(64, 64, seed), "sem_seg": torch.randint(0, 5, (64, 64), dtype=torch.uint8)}
        for seed in range(2)
    ]
    samples[1] = {key: value[..., :50, :40] for key, value in samples[1].items()}
    losses = model(samples)
    assert set(losses) == {"loss_sem_seg"} | ({"loss_sem_seg_aux"} if parts == "upernet" else set())
    padded = [samples[0], {k: v.clone() for k, v in samples[1].items()}]
    padded[1]["sem_seg"] = F.pad(padded[1]["sem_seg"], (0, 24, 0, 14), value=255)
    mean = torch.tensor(PIXELS["pixel_mean"])[:, None, None]
    filled = mean.expand(3, 64, 64).clone()
    filled[:, :50, :40] = padded[1]["image"]
    padded[1]["image"] = filled
    if parts == "semantic_fpn":  # the other drops channels at random
        torch.testing.assert_close(model(padded)["loss_sem_seg"], losses["loss_sem_seg"])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("parts", PARTS)
def test_bfloat16(parts):
    """Losses and logits are those of float32 within its precision, and float32 themselves."""
    model = make_model(parts)
    samples = [{"image": image(64, 96), "sem_seg": torch.zeros(64, 96, dtype=torch.uint8)}] * 2
    expected = model(samples)[0]["sem_seg"]
    with torch.autocast("cpu", torch.bfloat16):
        found = model(samples)[0]["sem_seg"]
        losses = model.train()(samples)
    assert found.dtype == torch.float32 and (found - expected).abs().max() < 0.1 * expected.std()
    assert all(loss.dtype == torch.float32 for loss in losses.values())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"inference": "slides"}, "inference='slides': one of whole, slide"),
        ({"output": "label"}, "output='label': one of logits, labels"),
        ({"stride": 65}, "stride=65 must be 1 to window=64"),
        ({"stride": 0}, "stride=0 must be"),
        ({"windows_per_batch": 0}, "windows_per_batch=0 at least 1"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model(**arguments)
    for scales in ((), (0.5, 0.0), (-1.0,)):
        with pytest.raises(ValueError, match="must be one or more positive numbers"):
            MultiScale(scales)
