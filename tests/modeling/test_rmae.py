import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

from rmae_d2.checkpoint import load_pretrained
from rmae_d2.errors import UserError
from rmae_d2.modeling import (
    RMAE,
    Batch,
    BatchRegionBranch,
    add_rmae_config,
    build_parts,
    num_visible,
    patchify,
    random_shuffle,
)
from rmae_d2.modeling.rmae import drawn_visible, visible_choices
from tests.helpers import assert_same, hf_mae_config

B, K = 2, 5


def inputs(channels=3, size=(32, 32), patch_size=8, regions=K):
    L = size[0] * size[1] // patch_size**2
    return (
        torch.randn(B, channels, *size),
        torch.rand(B, regions, *size) > 0.7,
        random_shuffle(torch.arange(B) + 3, L),
    )


def samples(channels=3, size=(32, 32), regions=K):
    out = []
    for i in range(B):
        maps = torch.rand(regions, *size) > 0.7
        image = torch.randint(0, 256, (channels, *size), dtype=torch.uint8)
        bits = torch.from_numpy(np.packbits(maps.numpy(), axis=0, bitorder="little"))
        sample = {"image": image, "regions": bits, "num_regions": regions, "mask_seed": i}
        out.append({**sample, "maps": maps})
    return out


# ---- Hugging Face


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_mae_is_that_of_hugging_face(make_rmae, norm_pix_loss):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.ViTMAEForPreTraining(hf_mae_config(norm_pix_loss=norm_pix_loss)).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = make_rmae(regions=None, norm_pix_loss=norm_pix_loss).eval()
    report = load_pretrained(ours, theirs.state_dict(), require_all=True)
    assert report.kind == "hf_vitmae" and not report.unused
    images, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    expected = theirs(images, noise=noise)
    out = ours.forward_tensors(images, ids_shuffle_BL=noise.argsort(dim=1))
    hidden = expected.mask.bool()
    assert torch.equal(out["mask"], hidden)
    assert torch.allclose(out["loss"], expected.loss, atol=1e-5, rtol=1e-5)
    assert torch.allclose(out["pred_pixels"][hidden], expected.logits[hidden], atol=1e-5)
    assert not out["pred_pixels"][~hidden].any()


# ---- against a computation that spares nothing


def naive(model, images, regions, ids):
    """R-MAE on all patches: embed everything, predict everything, mask the losses."""
    net, L = model.backbone.net, ids.shape[1]
    ids_restore = ids.argsort(dim=1)

    def take(x, ids):
        return torch.stack([row[i] for row, i in zip(x, ids, strict=True)])

    def hidden(ratio):
        mask = torch.ones(len(ids), L)
        mask[:, : num_visible(L, ratio)] = 0
        return take(mask, ids_restore)

    def embed_conv(embed, x):
        return embed.proj(x).flatten(2).transpose(1, 2)

    V = num_visible(L, model.mask_ratio)
    x = embed_conv(net.patch_embed, images) + net.pos_embed[:, 1:]
    cls_token = (net.cls_token + net.pos_embed[:, :1]).expand(len(x), -1, -1)
    x = torch.cat([cls_token, take(x, ids[:, :V])], dim=1)
    for block in net.blocks:
        x = block(x)
    tokens = net.norm(x)

    def fill(part):
        x = part.embed(tokens)
        masks = part.mask_token.expand(len(x), L - V, -1)
        x = torch.cat([x[:, :1], take(torch.cat([x[:, 1:], masks], dim=1), ids_restore)], dim=1)
        x = x + part.pos_embed
        for block in part.blocks:
            x = block(x)
        return part.norm(x)

    losses = {}
    if model.pixel_decoder is not None:
        pred = model.pixel_decoder.pred(fill(model.pixel_decoder))[:, 1:]
        target = patchify(images, model.patch_size)
        if model.norm_pix_loss:
            mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
            target = (target - mean) / (var + 1e-6) ** 0.5
        mask = hidden(model.mask_ratio)
        losses["loss_pixel"] = (((pred - target) ** 2).mean(-1) * mask).sum() / mask.sum()
    if model.region_branch is not None:
        branch = model.region_branch
        ratio = model.mask_ratio if branch.mask_ratio is None else branch.mask_ratio
        memory = fill(branch.neck)
        maps = regions.float().flatten(0, 1)[:, None]
        x = embed_conv(branch.encoder.patch_embed, maps - 0.5) + branch.encoder.pos_embed
        kept = ids[:, : num_visible(L, ratio)].repeat_interleave(regions.shape[1], dim=0)
        x = take(x, kept)
        for block in branch.encoder.blocks:
            x = block(x)
        queries = branch.query(x.mean(dim=1).unflatten(0, regions.shape[:2]))
        for block in branch.decoder:
            queries = block(queries, memory)
        block = branch.expansion
        queries = queries + block.attn(block.norm1(queries))
        expanded = queries[:, :, None] + block.proj(memory[:, 1:])[:, None]
        logits = branch.pred(block.mlp(block.norm2(expanded)))
        target = patchify(maps, model.patch_size).unflatten(0, regions.shape[:2])
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        each = each * torch.where(target > 0, 1.0, model.background_weight)
        mask = hidden(ratio)
        losses["loss_region"] = (each.mean(-1).mean(1) * mask).sum() / mask.sum()
    weights = {"loss_pixel": model.pixel_weight, "loss_region": model.region_weight}
    losses["loss"] = sum(weights[k] * v for k, v in losses.items())
    return losses


VARIANTS = {
    "rmae": {},
    "mae": {"regions": None},
    "rae": {"decoder": None},
    "weights": {"pixel_weight": 0.5, "region_weight": 3.0, "background_weight": 0.2},
    "ratios": {"mask_ratio": 0.75, "regions": {"mask_ratio": 0.5}},
    "ratios the other way": {"mask_ratio": 0.5, "regions": {"mask_ratio": 0.875}},
    "deep": {"regions": {"neck_depth": 2, "decoder_depth": 3, "encoder_depth": 2}},
    "widths": {"regions": {"encoder_dim": 24, "decoder_dim": 32}, "norm_pix_loss": False},
    "no neck": {"regions": {"neck_depth": 0}},
    "wide images": {"img_size": (32, 64)},
    "high images, one channel": {"img_size": (64, 32), "in_chans": 1},
    "four channels": {"img_size": (32, 64), "in_chans": 4, "patch_size": 4},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_only_computing_changes_nothing(make_rmae, variant):
    arguments = VARIANTS[variant]
    model = make_rmae(**arguments)
    net = model.backbone.net
    images, regions, ids = inputs(net.in_chans, net.img_size, net.patch_size)
    if model.region_branch is None:
        regions = None

    expected = naive(model, images, regions, ids)
    expected["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    out = model.forward_tensors(images, regions, ids)
    out["loss"].backward()

    assert {k for k in out if k.startswith("loss")} == set(expected)
    for name, loss in expected.items():
        assert torch.allclose(out[name], loss, rtol=1e-5, atol=1e-6), name
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(gradients) == trainable
    for name, p in model.named_parameters():
        if name in trainable:
            assert torch.allclose(p.grad, gradients[name], rtol=1e-4, atol=1e-6), name


# ---- properties


def test_images_of_a_batch_do_not_influence_each_other(make_rmae):
    model = make_rmae()
    images, regions, ids = inputs()
    together = model.forward_tensors(images, regions, ids, per_image=True)
    for i in range(B):
        alone = model.forward_tensors(
            images[i : i + 1], regions[i : i + 1], ids[i : i + 1], per_image=True
        )
        for name, value in alone.items():
            assert torch.allclose(together[name][i], value[0], atol=1e-5), name


def test_float_and_bool_regions_are_the_same(make_rmae):
    model = make_rmae()
    images, regions, ids = inputs()
    expected = model.forward_tensors(images, regions, ids)["loss"]
    for dtype in (torch.float32, torch.uint8):
        out = model.forward_tensors(images, regions.to(dtype), ids)
        assert torch.equal(out["loss"], expected)


# ---- Detectron2's contract


@pytest.mark.parametrize("regions", [1, 5, 11])
def test_forward_is_forward_tensors_on_unpacked_bits(make_rmae, regions):
    model = make_rmae(pixel_weight=0.5, region_weight=2.0)
    batch = samples(regions=regions)
    maps = torch.stack([x["maps"] for x in batch])
    mean, std = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])[:, :, None, None]
    images = (torch.stack([x["image"] for x in batch]).float() - mean) / std
    ids = random_shuffle(torch.tensor([0, 1]), 16)
    expected = model.forward_tensors(images, maps, ids)
    losses = model.train()(batch)
    assert set(losses) == {"loss_pixel", "loss_region"}
    assert torch.allclose(losses["loss_pixel"], 0.5 * expected["loss_pixel"])
    assert torch.allclose(losses["loss_region"], 2.0 * expected["loss_region"])
    assert torch.allclose(sum(losses.values()), expected["loss"])
    unpacked = [{**x, "regions": x["maps"]} for x in batch]
    assert torch.equal(sum(model(unpacked).values()), sum(losses.values()))


@pytest.mark.parametrize("channels", [1, 3])
def test_evaluation_outputs(make_rmae, channels):
    model = make_rmae(img_size=(32, 64), in_chans=channels, pixel_weight=0.5).eval()
    batch = samples(channels, (32, 64))
    with torch.no_grad():
        outputs = model(batch)
    assert len(outputs) == B
    L = 32
    for sample, out in zip(batch, outputs, strict=True):
        shapes = {k: (tuple(v.shape), v.dtype) for k, v in out.items()}
        assert shapes == {
            "loss_pixel": ((), torch.float32),
            "loss_region": ((), torch.float32),
            "mask": ((L,), torch.bool),
            "region_mask": ((L,), torch.bool),
            "pred_pixels": ((L, 64 * channels), torch.float32),
            "pred_regions": ((K, L, 64), torch.float32),
            "reconstruction": ((channels, 32, 64), torch.float32),
            "region_probability": ((K, 32, 64), torch.float32),
        }
        assert out["reconstruction"].min() >= 0 and out["reconstruction"].max() <= 255
        assert out["region_probability"].min() >= 0 and out["region_probability"].max() <= 1
        visible = ~out["mask"]
        assert visible.sum() == 8
        given = patchify(sample["image"][None].float(), 8)[0, visible]
        shown = patchify(out["reconstruction"][None], 8)[0]
        assert torch.allclose(shown[visible], given, atol=0.01)
        assert not torch.allclose(
            shown[~visible], patchify(sample["image"][None].float(), 8)[0, ~visible], atol=1
        )
        maps = patchify(sample["maps"].float()[:, None], 8)
        shown = patchify(out["region_probability"][:, None], 8)
        assert torch.equal(shown[:, visible], maps[:, visible])
        assert torch.allclose(shown[:, ~visible], out["pred_regions"][:, ~visible].sigmoid())
    stacked = Batch.of(batch)
    unweighted = model.forward_tensors(
        model.normalize(stacked.images),
        stacked.region_maps(),
        random_shuffle(stacked.mask_seeds, L),
    )
    assert torch.allclose(
        torch.stack([x["loss_pixel"] for x in outputs]).mean(), unweighted["loss_pixel"]
    )


def test_the_reconstruction_of_a_perfect_prediction_is_the_image(make_rmae):
    """Denormalising patch by patch undoes the target's normalisation."""
    for norm_pix_loss in (True, False):
        model = make_rmae(regions=None, norm_pix_loss=norm_pix_loss).eval()
        batch = samples()
        patches = patchify(model.normalize(Batch.of(batch).images), 8)
        target = patches
        if norm_pix_loss:
            target = (patches - patches.mean(-1, keepdim=True)) / (
                patches.var(-1, keepdim=True) + 1e-6
            ).sqrt()
        model.pixel_decoder.decode = lambda tokens, visible, hidden, context, target=target: (
            target.gather(1, hidden[:, :, None].expand(-1, -1, target.shape[-1]))
        )
        for sample, out in zip(batch, model(batch), strict=True):
            assert out["loss_pixel"] < 1e-9
            assert torch.allclose(out["reconstruction"], sample["image"].float(), atol=0.05)


def test_a_step_of_a_batch_tells_all_it_found_out(make_rmae):
    model = make_rmae().train()
    batch = Batch.of(samples())
    assert Batch.of(batch) is batch
    losses, scalars, plan = model(batch)
    of_dicts = model(list(batch))
    assert losses.keys() == of_dicts.keys()
    assert all(torch.equal(losses[name], of_dicts[name]) for name in losses)
    assert scalars == {} and torch.equal(plan.ids_shuffle, random_shuffle(batch.mask_seeds, 16))
    model.eval()
    for of_batch, of_dicts in zip(model(batch), model(list(batch)), strict=True):
        assert all(torch.equal(of_batch[name], of_dicts[name]) for name in of_dicts)
    assert model(batch, mask_ratio=0.5)[0]["mask"].sum() == 8


def test_masks_without_seeds(make_rmae):
    model = make_rmae(regions=None).train()
    batch = Batch.of([{"image": x["image"]} for x in samples()])
    orders = [model(batch).plan.ids_shuffle for _ in range(5)]
    assert len({tuple(order.flatten().tolist()) for order in orders}) == 5
    assert not torch.equal(orders[0][0], orders[0][1])
    torch.manual_seed(1)
    first = model(batch).plan.ids_shuffle
    torch.manual_seed(1)
    assert torch.equal(model(batch).plan.ids_shuffle, first)
    a, b = model.eval()(batch)
    assert torch.equal(a["mask"], b["mask"])
    torch.manual_seed(1)
    a = model.forward_tensors(torch.zeros(2, 3, 32, 32))["mask"]
    assert not torch.equal(a, model.forward_tensors(torch.zeros(2, 3, 32, 32))["mask"])


# ---- errors


@pytest.mark.parametrize(
    ("images", "regions", "message"),
    [
        ((1, 3, 64, 32), (1, K, 64, 32), "img_size"),
        ((1, 1, 32, 32), (1, K, 32, 32), "img_size"),
        ((1, 3, 32, 32), None, "given no regions"),
        ((1, 3, 32, 32), (1, K, 32, 64), "region maps"),
        ((1, 3, 32, 32), (1, K, 16, 16), "region maps"),
        ((1, 3, 32, 32), (2, K, 32, 32), "region maps"),
    ],
)
def test_inputs_that_do_not_fit(make_rmae, images, regions, message):
    with pytest.raises(ValueError, match=message):
        make_rmae().forward_tensors(
            torch.zeros(images), None if regions is None else torch.zeros(regions)
        )


def test_mismatched_parts(make_rmae):
    def parts_of(img_size):
        sizes = {"img_size": img_size, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 4}
        decoder = {"dim": 16, "depth": 1, "num_heads": 4}
        return build_parts(**sizes, pixel_decoder=decoder, region_branch={})

    parts, wide = parts_of(32), parts_of((32, 64))
    for name in ("pixel_decoder", "region_branch"):
        with pytest.raises(ValueError, match=rf"{name} has a grid of \(4, 8\)"):
            RMAE(**{**parts, name: wide[name]})
    with pytest.raises(ValueError, match="nothing to learn"):
        RMAE(backbone=parts["backbone"])
    with pytest.raises(ValueError, match="1 values in pixel_mean"):
        RMAE(**parts, pixel_mean=[1.0], pixel_std=[1.0])
    with pytest.raises(ValueError, match="at least 1"):
        make_rmae(regions={"decoder_depth": 0})


# ---- yacs


def test_build_model_from_yacs():
    """Normalised as by default and not as Detectron2's own, of BGR images; branches can be off."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "RMAE", "cpu"
    with pytest.raises(AttributeError, match="add_rmae_config"):
        build_model(cfg)
    add_rmae_config(cfg)
    node = cfg.MODEL.RMAE
    assert (node.EMBED_DIM, node.DEPTH, node.NUM_HEADS, node.MASK_RATIO) == (768, 12, 12, 0.75)
    assert node.REGION_BRANCH.NECK_DEPTH == 1
    node.EMBED_DIM, node.DEPTH, node.NUM_HEADS, node.IMG_SIZE, node.PATCH_SIZE = (
        32,
        1,
        4,
        [32, 64],
        8,
    )
    node.PIXEL_DECODER.DIM, node.PIXEL_DECODER.DEPTH, node.PIXEL_DECODER.NUM_HEADS = 16, 1, 4
    node.REGION_WEIGHT, node.REGION_BRANCH.NECK_DEPTH, node.REGION_BRANCH.VARIANT = 2.0, 3, "batch"
    node.FEEDING, node.REGION_CRITERION = "both", "l2"
    model = build_model(cfg)
    assert isinstance(model, RMAE) and isinstance(model.region_branch, BatchRegionBranch)
    assert model.backbone.net.grid == (4, 8) and len(model.region_branch.neck.blocks) == 3
    assert model.region_weight == 2.0 and model.region_criterion == "l2"
    assert model.region_to_pixel is not None
    assert set(model.train()(samples(size=(32, 64)))) == {"loss_pixel", "loss_region"}
    direct = RMAE(**build_parts(img_size=32, pixel_decoder=None, region_branch={}, depth=1))
    assert torch.equal(model.pixel_mean, direct.pixel_mean)
    assert torch.equal(model.pixel_std, direct.pixel_std)
    assert not [k for k in model.state_dict() if k.startswith("pixel_mean")]
    node.FEEDING, node.REGION_BRANCH.ENABLED = "pixel_to_region", False
    assert build_model(cfg).region_branch is None
    node.REGION_BRANCH.ENABLED, node.PIXEL_DECODER.ENABLED = True, False
    assert build_model(cfg).pixel_decoder is None


def test_recomputed_activations_change_nothing(make_rmae):
    """Losses and gradients are equal; that less memory is kept is in test_analysis."""
    model, step = make_rmae(), inputs()
    results = []
    for recompute in (False, True):
        model.backbone.net.use_act_checkpoint = model.pixel_decoder.use_act_checkpoint = recompute
        model.zero_grad()
        loss = model.forward_tensors(*step)["loss"]
        loss.backward()
        results.append((loss, [p.grad for p in model.parameters() if p.grad is not None]))
    assert_same(*results)


# ---- a region mask ratio that is drawn


def test_a_drawn_region_ratio_takes_all_its_values_in_training_and_the_pixels_in_evaluation(
    make_rmae,
):
    torch.manual_seed(0)
    model = make_rmae(mask_ratio=0.75, regions={"mask_ratio": [0.25, 0.92]})
    images, regions, _ = inputs()
    kinds = visible_choices(16, [0.25, 0.92])
    assert kinds == [12, 10, 8, 7, 5, 4, 2, 1]  # of 16, at 8 ratios from 0.25 to 0.92
    shown = set()
    encode = model.region_branch.encoder.forward

    def watch(visible_BKVX, ids_visible_BV):
        shown.add(visible_BKVX.shape[2])
        return encode(visible_BKVX, ids_visible_BV)

    model.region_branch.encoder.forward = watch
    for seed in range(60):
        batch = [{**sample, "mask_seed": seed + 100 * i} for i, sample in enumerate(samples())]
        losses = model(batch)
    assert shown == set(kinds) and set(losses) == {"loss_pixel", "loss_region"}
    with torch.no_grad():
        out = model.eval()(samples())[0]
        tensors = model.forward_tensors(images, regions)
    assert out["mask"].sum() == 12
    # As many of a region's patches are hidden as of the pixels.
    assert (out["pred_regions"].abs().sum(dim=(0, 2)) > 0).sum() == 12
    assert tensors["region_mask"].sum() == 12 * B


def test_a_drawn_region_ratio_is_a_function_of_the_seeds():
    seeds = torch.tensor([3, 5, 8])
    draws = [drawn_visible(64, [0.5, 0.98], seeds + i) for i in range(400)]
    assert draws == [drawn_visible(64, [0.5, 0.98], seeds + i) for i in range(400)]
    counts = {n: draws.count(n) for n in visible_choices(64, [0.5, 0.98])}
    assert len(counts) == 8 and min(counts.values()) > 25  # 50 each on average


@pytest.mark.parametrize(
    "ratios", [[0.9, 0.5], [0.5], [0.5, 0.5], [0.5, 1.0], [0.0, 0.5], [0.1, 0.2, 0.3]]
)
def test_ratios_between_which_nothing_can_be_drawn_are_refused(make_rmae, ratios):
    with pytest.raises(UserError, match="mask_ratio"):
        make_rmae(regions={"mask_ratio": ratios})
