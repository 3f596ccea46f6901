import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model
from omegaconf import OmegaConf
from torch import nn

from rmae_d2.checkpoint import load_pretrained
from rmae_d2.modeling import (
    RMAE,
    Batch,
    MaskedViT,
    MaskingPolicy,
    MaskPlan,
    PixelDecoder,
    PixelEncoder,
    RegionBranch,
    add_rmae_config,
    build_parts,
    mask_from_order,
    num_visible,
    patchify,
    random_shuffle,
)
from tests.helpers import hf_mae_config

B, K = 2, 5


def inputs(channels=3, size=(32, 32), patch_size=8, regions=K):
    L = size[0] * size[1] // patch_size**2
    return (
        torch.randn(B, channels, *size),
        torch.rand(B, regions, *size) > 0.7,
        random_shuffle(torch.arange(B) + 3, L),
    )


def pack(regions_KHW):
    bits = np.packbits(regions_KHW.numpy(), axis=0, bitorder="little")
    return torch.from_numpy(bits)


def samples(channels=3, size=(32, 32), regions=K):
    out = []
    for i in range(B):
        maps = torch.rand(regions, *size) > 0.7
        image = torch.randint(0, 256, (channels, *size), dtype=torch.uint8)
        out.append(
            {
                "image": image,
                "regions": pack(maps),
                "num_regions": regions,
                "mask_seed": i,
                "maps": maps,
            }
        )
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


def test_the_two_branches_alone_and_together(make_rmae):
    both = make_rmae(pixel_weight=2.0, region_weight=0.5)
    images, regions, ids = inputs()
    out = both.forward_tensors(images, regions, ids)
    assert torch.allclose(out["loss"], 2.0 * out["loss_pixel"] + 0.5 * out["loss_region"])
    for arguments, absent, present in (
        ({"regions": None}, "region", "pixel"),
        ({"decoder": None}, "pixel", "region"),
    ):
        one = make_rmae(**arguments)
        load_pretrained(one, both.state_dict())
        alone = one.forward_tensors(images, regions, ids)
        assert not [k for k in alone if absent in k and k != "region_mask"]
        assert torch.allclose(alone["loss"], out[f"loss_{present}"])
        assert torch.allclose(alone[f"pred_{present}s"], out[f"pred_{present}s"], atol=1e-6)


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


@pytest.mark.parametrize(("beta_i", "beta_r"), [(0.75, 0.5), (0.5, 0.75), (0.75, 0.75)])
def test_a_region_ratio_of_its_own_keeps_another_prefix(make_rmae, beta_i, beta_r):
    model = make_rmae(mask_ratio=beta_i, regions={"mask_ratio": beta_r})
    images, regions, ids = inputs()
    out = model.forward_tensors(images, regions, ids)
    assert torch.equal(out["mask"], mask_from_order(ids, round(16 * (1 - beta_i))))
    assert torch.equal(out["region_mask"], mask_from_order(ids, round(16 * (1 - beta_r))))
    more, less = sorted((out["mask"], out["region_mask"]), key=lambda m: -int(m.sum()))
    assert (more | ~less).all()  # what the milder mask hides, the stronger hides too
    predicted = out["pred_regions"].abs().sum(dim=(1, 3)) > 0
    assert torch.equal(predicted, out["region_mask"])
    assert torch.equal(out["pred_pixels"].abs().sum(dim=2) > 0, out["mask"])


def test_float_and_bool_regions_are_the_same(make_rmae):
    model = make_rmae()
    images, regions, ids = inputs()
    expected = model.forward_tensors(images, regions, ids)["loss"]
    for dtype in (torch.float32, torch.uint8):
        out = model.forward_tensors(images, regions.to(dtype), ids)
        assert torch.equal(out["loss"], expected)


# ---- Detectron2's contract


@pytest.mark.parametrize("regions", [1, 5, 8, 11])
def test_forward_is_forward_tensors_on_unpacked_bits(make_rmae, regions):
    model = make_rmae(pixel_weight=0.5, region_weight=2.0)
    batch = samples(regions=regions)
    maps = torch.stack([x["maps"] for x in batch])
    assert torch.equal(Batch.of(batch).region_maps(), maps)
    images = torch.stack([x["image"] for x in batch]).float()
    images = (images - torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)) / torch.tensor(
        [58.395, 57.12, 57.375]
    ).view(3, 1, 1)
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


def test_another_masking_policy(make_rmae):
    class LastVisible(MaskingPolicy):
        def forward(self, request):
            L = request.num_patches
            return MaskPlan(torch.arange(L).flip(0).expand(len(request.seeds), -1))

    model = make_rmae(regions=None, masking=LastVisible()).eval()
    out = model(samples())[0]
    assert out["mask"].tolist() == [True] * 12 + [False] * 4


def test_buffers_are_not_saved(make_rmae):
    assert not [k for k in make_rmae().state_dict() if k.startswith("pixel_mean")]
    assert make_rmae().device == torch.device("cpu")


# ---- errors


def test_images_of_another_size(make_rmae):
    model = make_rmae(regions=None)
    for shape in ((3, 64, 32), (1, 32, 32)):
        with pytest.raises(ValueError, match=r"img_size"):
            model.forward_tensors(torch.zeros(1, *shape))


def test_absent_regions(make_rmae):
    model = make_rmae()
    with pytest.raises(ValueError, match="given no regions"):
        model.forward_tensors(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="given no regions"):
        model([{"image": x["image"]} for x in samples()])


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (16, 16)])
def test_regions_of_another_size(make_rmae, size):
    model = make_rmae()
    with pytest.raises(ValueError, match="region maps"):
        model.forward_tensors(torch.zeros(1, 3, 32, 32), torch.zeros(1, K, *size))


def test_regions_of_another_batch(make_rmae):
    with pytest.raises(ValueError, match="region maps"):
        make_rmae().forward_tensors(torch.zeros(1, 3, 32, 32), torch.zeros(2, K, 32, 32))


def test_images_with_different_numbers_of_regions(make_rmae):
    """5 and 8 regions both fill one byte plane; neither may be cut to, or filled up with, the other's."""
    batch = [samples(regions=5)[0], samples(regions=8)[1]]
    with pytest.raises(ValueError, match="num_regions"):
        make_rmae()(batch)
    with pytest.raises(ValueError, match="num_regions"):
        make_rmae()(batch[::-1])


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


def yacs(**overrides):
    cfg = get_cfg()
    add_rmae_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "RMAE"
    cfg.MODEL.DEVICE = "cpu"
    pairs = {
        "EMBED_DIM": 32,
        "DEPTH": 1,
        "NUM_HEADS": 4,
        "IMG_SIZE": [32, 64],
        "PATCH_SIZE": 8,
        "PIXEL_DECODER.DIM": 16,
        "PIXEL_DECODER.DEPTH": 1,
        "PIXEL_DECODER.NUM_HEADS": 4,
        **overrides,
    }
    cfg.merge_from_list([x for k, v in pairs.items() for x in (f"MODEL.RMAE.{k}", v)])
    return cfg


def test_build_model_from_yacs():
    model = build_model(yacs(**{"REGION_WEIGHT": 2.0, "REGION_BRANCH.NECK_DEPTH": 3}))
    assert isinstance(model, RMAE)
    assert model.backbone.net.grid == (4, 8)
    assert len(model.region_branch.neck.blocks) == 3
    assert model.region_weight == 2.0
    losses = model.train()(samples(size=(32, 64)))
    assert set(losses) == {"loss_pixel", "loss_region"}


def test_yacs_normalises_as_lazyconfig_does():
    """Detectron2's own defaults are BGR means and deviation 1; our loader delivers RGB."""
    model = build_model(yacs())
    direct = RMAE(**build_parts(img_size=32, pixel_decoder=None, region_branch={}, depth=1))
    assert torch.equal(model.pixel_mean, direct.pixel_mean)
    assert torch.equal(model.pixel_std, direct.pixel_std)


def test_yacs_branches_can_be_off():
    mae = build_model(yacs(**{"REGION_BRANCH.ENABLED": False}))
    assert mae.region_branch is None
    rae = build_model(yacs(**{"PIXEL_DECODER.ENABLED": False}))
    assert rae.pixel_decoder is None


def test_yacs_defaults_are_the_papers():
    cfg = get_cfg()
    add_rmae_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "RMAE"
    c = cfg.MODEL.RMAE
    assert (c.EMBED_DIM, c.DEPTH, c.NUM_HEADS, c.MASK_RATIO) == (768, 12, 12, 0.75)
    assert c.REGION_BRANCH.NECK_DEPTH == 1


def test_yacs_without_the_keys():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "RMAE"
    with pytest.raises(AttributeError, match="add_rmae_config"):
        build_model(cfg)


# ---- LazyConfig


def test_lazy_config_with_lists_and_a_branch_set_to_null():
    net = L(MaskedViT)(img_size=[32, 64], patch_size=8, embed_dim=32, depth=1, num_heads=4)
    config = OmegaConf.create(
        {
            "model": L(RMAE)(
                backbone=L(PixelEncoder)(net=net),
                pixel_decoder=L(PixelDecoder)(
                    in_dim="${..backbone.net.embed_dim}",
                    grid=[4, 8],
                    patch_size="${..backbone.net.patch_size}",
                    dim=16,
                    depth=1,
                    num_heads=4,
                ),
                region_branch=L(RegionBranch)(
                    in_dim="${..backbone.net.embed_dim}", grid=[4, 8], patch_size=8
                ),
                pixel_mean=[123.675, 116.28, 103.53],
                pixel_std=[58.395, 57.12, 57.375],
            )
        },
        flags={"allow_objects": True},
    )
    model = instantiate(config.model)
    assert set(model(samples(size=(32, 64)))) == {"loss_pixel", "loss_region"}
    assert len(model.eval()(samples(size=(32, 64)))) == B
    config.model.region_branch = None
    assert set(instantiate(config.model)(samples(size=(32, 64)))) == {"loss_pixel"}


def test_recomputed_activations_change_nothing_but_memory(make_rmae):
    """Losses and gradients are equal; fewer bytes are kept for the backward pass."""
    kept: dict[bool, int] = {}
    results = {}
    for recompute in (False, True):
        torch.manual_seed(0)
        model = make_rmae()
        model.backbone.net.use_act_checkpoint = recompute
        model.pixel_decoder.use_act_checkpoint = recompute
        torch.manual_seed(1)
        images, regions, ids = inputs()
        kept[recompute] = 0

        def pack(tensor, recompute=recompute):
            kept[recompute] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = model.forward_tensors(images, regions, ids)["loss"]
        loss.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        results[recompute] = loss.item(), grads
    assert results[True][0] == results[False][0]
    torch.testing.assert_close(results[True][1], results[False][1])
    assert kept[True] < 0.7 * kept[False]
