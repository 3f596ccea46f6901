from functools import partial

import pytest
import torch
import torch.nn.functional as F
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import ShapeSpec
from detectron2.modeling import SimpleFeaturePyramid as Detectron2Pyramid
from detectron2.modeling import ViT as Detectron2ViT
from detectron2.modeling.backbone.utils import add_decomposed_rel_pos
from detectron2.structures import ImageList
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rmae_d2.errors import UserError
from rmae_d2.modeling import MaskedViT, SimpleFeaturePyramid, ViT, patchify
from rmae_d2.modeling.transfer import vit_attention
from rmae_d2.modeling.transfer.vit_attention import widened_attention
from tests.helpers import jittered
from tests.modeling.transfer.helpers import assert_near

SIZE = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 4,
    "pretrain_img_size": 48,
    "norm_layer": partial(nn.LayerNorm, eps=1e-6),
}
WINDOWS = {"window_size": 3, "window_block_indexes": [0, 2]}


def pair(**kwargs):
    """Detectron2's ViT and ours with the same random weights, norms and biases too."""
    theirs, ours = Detectron2ViT(**SIZE, **kwargs), ViT(**SIZE, **kwargs)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def gradients(model, images, grad):
    """The features and the gradients of images and parameters."""
    images = images.clone().requires_grad_()
    model.zero_grad()
    features = model(images)["last_feat"]
    features.backward(grad)
    return features.detach(), [images.grad, *(p.grad for p in model.parameters())]


def assert_parity(theirs, ours, images, tolerance=1e-5):
    with torch.no_grad():
        shape = theirs(images)["last_feat"].shape
    grad = torch.randn(shape, dtype=images.dtype, device=images.device)
    expected, expected_grads = gradients(theirs, images, grad)
    found, found_grads = gradients(ours, images, grad)
    assert_near(found, expected, tolerance)
    for one, other in zip(found_grads, expected_grads, strict=True):
        assert_near(one, other, tolerance)


@pytest.mark.parametrize("rel_pos", [True, False])
@pytest.mark.parametrize("windows", [{}, WINDOWS, {**WINDOWS, "window_size": 4}])
@pytest.mark.parametrize("size", [(64, 64), (96, 56), (40, 104), (51, 70)])
def test_is_detectron2s_vit(rel_pos, windows, size):
    """Output and gradients: windows that divide the grid and that do not, other sizes than img_size."""
    theirs, ours = pair(use_rel_pos=rel_pos, **windows)
    assert_parity(theirs, ours, torch.randn(2, 3, *size))


@pytest.mark.parametrize(
    "options",
    [
        {"qkv_bias": False},
        {"use_abs_pos": False},
        {"residual_block_indexes": [1]},
        {"pretrain_use_cls_token": False},
    ],
    ids=str,
)
def test_is_detectron2s_vit_with_other_options(options):
    theirs, ours = pair(use_rel_pos=True, **WINDOWS, **options)
    assert_parity(theirs, ours, torch.randn(1, 3, 56, 72))


def test_is_detectron2s_vit_in_double_precision():
    theirs, ours = pair(use_rel_pos=True, **WINDOWS)
    images = torch.randn(1, 3, 64, 80, dtype=torch.float64)
    assert_parity(theirs.double(), ours.double(), images, tolerance=1e-12)


def test_is_detectron2s_vit_by_the_attention_of_gpus(monkeypatch):
    monkeypatch.setattr(vit_attention, "chunked_attention", widened_attention)
    theirs, ours = pair(use_rel_pos=True, **WINDOWS)
    assert_parity(theirs, ours, torch.randn(2, 3, 72, 56))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rel_pos", [True, False])
def test_is_detectron2s_vit_on_a_gpu(rel_pos):
    theirs, ours = pair(use_rel_pos=rel_pos, **WINDOWS)
    assert_parity(theirs.cuda(), ours.cuda(), torch.randn(2, 3, 72, 56).cuda(), tolerance=1e-4)


@pytest.mark.parametrize("trained", ["nothing", "rel_pos", "all but rel_pos", "the first block"])
def test_part_of_it_can_be_frozen(trained):
    """Gradients of the rest are the same."""
    ours = pair(use_rel_pos=True, **WINDOWS)[1]
    images = torch.randn(1, 3, 64, 64)
    ours(images)["last_feat"].square().sum().backward()
    expected = {name: p.grad for name, p in ours.named_parameters()}
    keep = {
        "nothing": lambda name: False,
        "rel_pos": lambda name: "rel_pos" in name,
        "all but rel_pos": lambda name: "rel_pos" not in name,
        "the first block": lambda name: "blocks.0." in name,
    }[trained]
    for name, parameter in ours.named_parameters():
        parameter.requires_grad_(keep(name)).grad = None
    features = ours(images)["last_feat"]
    assert features.requires_grad == (trained != "nothing")
    if features.requires_grad:
        features.square().sum().backward()
    for name, parameter in ours.named_parameters():
        if keep(name):
            assert_near(parameter.grad, expected[name])
        else:
            assert parameter.grad is None


@pytest.mark.slow
def test_compiles_as_one_graph():
    """Without graph breaks, also where blocks are computed again; gradients are the same."""
    for options in ({}, {"use_act_checkpoint": True}):
        torch._dynamo.reset()
        ours = ViT(**SIZE, use_rel_pos=True, **WINDOWS, **options)
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
        images, grad = torch.randn(1, 3, 64, 40), torch.randn(1, 32, 8, 5)
        expected, expected_grads = gradients(ours, images, grad)
        found, found_grads = gradients(compiled, images, grad)
        assert_near(found, expected)
        for one, other in zip(found_grads, expected_grads, strict=True):
            assert_near(one, other)


DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu])]


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_is_as_near_to_fp32_as_detectron2s(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    theirs, ours = (model.to(device) for model in pair(use_rel_pos=True, **WINDOWS))
    images = torch.randn(2, 3, 64, 64, device=device)
    grad = torch.randn(2, 32, 8, 8, device=device)
    exact, exact_grads = gradients(theirs, images, grad)
    with torch.autocast(device, torch.bfloat16):
        expected, expected_grads = gradients(theirs, images, grad)
        found, found_grads = gradients(ours, images, grad)
    assert (found - exact).norm() <= 1.2 * (expected - exact).norm()
    errors = [
        sum((a - b).square().sum() for a, b in zip(grads, exact_grads, strict=True)).sqrt()
        for grads in (found_grads, expected_grads)
    ]
    assert errors[0] <= 1.2 * errors[1]


@pytest.mark.parametrize("rel_pos", [True, False])
def test_drop_path_is_detectron2s(rel_pos):
    theirs, ours = pair(use_rel_pos=rel_pos, drop_path_rate=0.6, **WINDOWS)
    images, outputs = torch.randn(4, 3, 64, 64), []
    for model in (theirs, ours):
        torch.manual_seed(3)
        outputs.append(model(images)["last_feat"])
    assert_near(outputs[1], outputs[0])
    assert not torch.allclose(outputs[1], ours.eval()(images)["last_feat"], atol=1e-3)


def test_same_names_and_same_initial_weights():
    models = []
    for vit in (Detectron2ViT, ViT):
        torch.manual_seed(5)
        models.append(vit(**SIZE, use_rel_pos=True, rel_pos_zero_init=False, **WINDOWS))
    theirs, ours = (list(model.state_dict().items()) for model in models)
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (name, one), (_, other) in zip(ours, theirs, strict=True):
        assert torch.equal(one, other), name
    assert isinstance(models[1], Detectron2ViT)
    assert repr(models[1].blocks) == repr(models[0].blocks)


# ---------------------------------------------------------------- with a cls token


def assert_same_blocks(theirs, states):
    """Our outputs, block by block, are the patches of another ViT's."""
    ours = ViT(
        **{**SIZE, "img_size": 48}, keep_cls_token=True, out_indices=range(SIZE["depth"])
    ).eval()
    weights = {k: v for k, v in theirs.state_dict().items() if not k.startswith("norm.")}
    ours.load_state_dict(weights)
    with torch.no_grad():
        features = ours(IMAGES)
    for i, state in enumerate(states):
        found = features[f"block{i}"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(found, state[:, 1:])
    assert torch.equal(features["last_feat"], features[f"block{len(states) - 1}"])


IMAGES = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
PLAIN = {name: SIZE[name] for name in ("patch_size", "embed_dim", "depth", "num_heads")}


def test_with_a_cls_token_it_is_timms_vit():
    theirs = jittered(VisionTransformer(img_size=48, **PLAIN, num_classes=0)).eval()
    states = []
    for block in theirs.blocks:
        block.register_forward_hook(lambda _, __, out: states.append(out))
    with torch.no_grad():
        theirs(IMAGES)
    assert_same_blocks(theirs, states)


def test_with_a_cls_token_it_is_the_encoder_of_pretraining_that_sees_all():
    theirs = jittered(MaskedViT(img_size=48, **PLAIN))
    states = []
    for block in theirs.blocks:
        block.register_forward_hook(lambda _, __, out: states.append(out))
    with torch.no_grad():
        theirs(patchify(IMAGES, SIZE["patch_size"]))
    assert_same_blocks(theirs, states)


@pytest.mark.parametrize("way", ["chunked", "widened", "SDPA"])
@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
def test_the_cls_token_with_relative_positions(way, size, monkeypatch):
    """Against scores of all pairs, to which Detectron2 adds its positions between patches alone."""
    if way == "widened":
        monkeypatch.setattr(vit_attention, "chunked_attention", widened_attention)
    ours = jittered(ViT(**SIZE, use_rel_pos=way != "SDPA", keep_cls_token=True))
    attn, (H, W) = ours.blocks[1].attn, (side // 8 for side in size)
    x = torch.randn(2, 1 + H * W, 32, requires_grad=True)
    q, k, v = attn.qkv(x).view(2, 1 + H * W, 3, 4, 8).permute(2, 0, 3, 1, 4).flatten(1, 2)
    scores = q @ k.mT * 8**-0.5
    if attn.use_rel_pos:
        zeros = torch.zeros(8, H * W, H * W)
        bias = add_decomposed_rel_pos(
            zeros, q[:, 1:], attn.rel_pos_h, attn.rel_pos_w, (H, W), (H, W)
        )
        scores = scores + F.pad(bias, (1, 0, 1, 0))
    expected = (scores.softmax(-1) @ v).view(2, 4, -1, 8).transpose(1, 2).flatten(2)
    expected = attn.proj(expected)
    found, grad = attn(x, (H, W)), torch.randn_like(x)
    assert_near(found, expected)
    inputs = [x, *attn.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        assert_near(one, other)


def test_the_cls_token_is_learned_and_only_where_it_can_be():
    ours = jittered(ViT(**SIZE, use_rel_pos=True, keep_cls_token=True))
    for recompute in (False, True):
        ours.use_act_checkpoint = recompute
        ours.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=recompute):
            ours(torch.randn(1, 3, 64, 40))["last_feat"].square().sum().backward()
        assert all(p.grad.isfinite().all() and p.grad.any() for p in ours.parameters())
    for options in (WINDOWS, {"residual_block_indexes": [0]}):
        with pytest.raises(UserError, match="a cls token lies in no window and on no grid"):
            ViT(**SIZE, keep_cls_token=True, **options)
    with pytest.raises(UserError, match="needs the cls token's row in pos_embed"):
        ViT(**SIZE, keep_cls_token=True, pretrain_use_cls_token=False)


# ---------------------------------------------------------------- the network around it


@pytest.mark.parametrize("bf16", [False, True])
def test_checkpointing_changes_memory_only(bf16):
    """Drop path draws the same in the recomputation; blocks' insides are not kept."""
    ours = ViT(**SIZE, use_rel_pos=True, drop_path_rate=0.6, **WINDOWS)
    checkpointed = ViT(
        **SIZE, use_rel_pos=True, drop_path_rate=0.6, use_act_checkpoint=True, **WINDOWS
    )
    checkpointed.load_state_dict(ours.state_dict())
    assert [n for n, _ in checkpointed.named_modules()] == [n for n, _ in ours.named_modules()]
    images, grad, results, sizes = torch.randn(4, 3, 64, 64), torch.randn(4, 32, 8, 8), [], []
    for model in (ours, checkpointed):
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x
        )
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            torch.manual_seed(1)
            results.append(gradients(model, images, grad))
        sizes.append(sum(kept))
    assert torch.equal(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(one, other)
    assert sizes[1] < 0.2 * sizes[0]
    with torch.no_grad():
        checkpointed.eval()(images)


def _ddp_worker(rank, rendezvous, state, images, grad, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    net = ViT(**SIZE, use_rel_pos=True, use_act_checkpoint=True, out_indices=(1,), **WINDOWS)
    net.load_state_dict(state)
    model = nn.parallel.DistributedDataParallel(net, find_unused_parameters=False)
    for _ in range(2):  # the second step would find gradients that were not reduced
        net.zero_grad()
        features = model(images[rank::2])
        (features["last_feat"] * grad[rank::2]).sum().backward()
    if rank == 0:
        torch.save([p.grad for p in net.parameters()], out)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_checkpointing_works_in_two_processes(tmp_path):
    net = ViT(**SIZE, use_rel_pos=True, rel_pos_zero_init=False, **WINDOWS)
    images, grad = torch.randn(4, 3, 64, 64), torch.randn(4, 32, 8, 8)
    out = tmp_path / "gradients.pt"
    torch.multiprocessing.spawn(
        _ddp_worker,
        (str(tmp_path / "rendezvous"), net.state_dict(), images, grad, str(out)),
        nprocs=2,
    )
    (net(images)["last_feat"] * grad).sum().backward()
    for found, parameter in zip(torch.load(out), net.parameters(), strict=True):
        assert_near(found * 2, parameter.grad)  # DDP averages over processes


def test_taps():
    net = ViT(**SIZE, use_rel_pos=True, **WINDOWS, out_indices=(0, 2)).eval()
    images = torch.randn(1, 3, 64, 40)
    features = net(images)
    assert list(features) == list(net.output_shape()) == ["block0", "block2", "last_feat"]
    assert all(
        x.shape == (1, 32, 8, 5) and net.output_shape()[name] == ShapeSpec(channels=32, stride=8)
        for name, x in features.items()
    )
    assert torch.equal(features["block2"], features["last_feat"])
    short = ViT(**{**SIZE, "depth": 1}, use_rel_pos=True, **WINDOWS).eval()
    short.load_state_dict(net.state_dict(), strict=False)
    assert torch.equal(features["block0"], short(images)["last_feat"])
    assert list(short.output_shape()) == ["last_feat"]
    renamed = ViT(**SIZE, out_feature="c4", out_indices=[1, 0, 1])
    assert list(renamed(images)) == list(renamed.output_shape()) == ["block0", "block1", "c4"]
    with pytest.raises(ValueError, match=r"out_indices \[3\]: the ViT has blocks 0 to 2"):
        ViT(**SIZE, out_indices=(0, 3))


def pyramid(cls, net, **kwargs):
    return cls(net, "last_feat", 16, [4.0, 2.0, 1.0, 0.5], **kwargs)


def test_is_detectron2s_pyramid():
    theirs, ours = (
        pyramid(cls, net)
        for cls, net in zip(
            (Detectron2Pyramid, SimpleFeaturePyramid),
            pair(use_rel_pos=True, **WINDOWS),
            strict=True,
        )
    )
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 96)
    expected, found = theirs(images), ours(images)
    assert list(found) == list(expected) == ["p1", "p2", "p3", "p4"]
    for name in expected:
        assert_near(found[name], expected[name])
    assert ours.output_shape() == theirs.output_shape()


def test_images_are_padded_as_the_pyramid_needs():
    """Detectron2's ImageList pads by our constraints, and not by those of its own pyramid."""
    net = ViT(**SIZE)
    image = [torch.zeros(3, 50, 33)]

    def padded(backbone):
        images = ImageList.from_tensors(
            image, backbone.size_divisibility, padding_constraints=backbone.padding_constraints
        )
        return tuple(images.tensor.shape[-2:])

    assert padded(pyramid(Detectron2Pyramid, net)) == (50, 33)
    assert padded(pyramid(SimpleFeaturePyramid, net)) == (64, 48)
    assert padded(pyramid(SimpleFeaturePyramid, net, square_pad=128)) == (128, 128)
    assert padded(pyramid(SimpleFeaturePyramid, net, square_pad=72)) == (80, 80)
    # The ViT alone: no pixel is left out, though the network itself drops those beyond whole patches.
    assert padded(net) == (56, 40)
    assert padded(Detectron2ViT(**SIZE)) == (50, 33)
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 50, 33))["last_feat"].shape[-2:] == (6, 4)


# ---------------------------------------------------------------- weights


class Detector(nn.Module):
    def __init__(self, cls, vit, **kwargs):
        super().__init__()
        self.backbone = pyramid(cls, vit(**{**SIZE, **kwargs}, use_rel_pos=True, **WINDOWS))


def test_checkpoints_go_both_ways_between_ours_and_detectron2s(tmp_path):
    """Through Detectron2's own checkpointer, nothing missing or unexpected."""
    theirs, ours = Detector(Detectron2Pyramid, Detectron2ViT), Detector(SimpleFeaturePyramid, ViT)
    for one, other in ((theirs, ours), (ours, theirs)):
        for parameter in one.parameters():
            nn.init.normal_(parameter, std=0.3)
        DetectionCheckpointer(one, str(tmp_path)).save("weights")
        incompatible = DetectionCheckpointer(other)._load_model(
            torch.load(tmp_path / "weights.pth", weights_only=True)
        )
        assert not incompatible.missing_keys and not incompatible.unexpected_keys
        images = torch.randn(1, 3, 64, 64)
        assert_near(other.backbone(images)["p2"], one.backbone(images)["p2"])
