import pytest
import torch

from rmae_d2.modeling import RMAE, build_parts, random_shuffle
from rmae_d2.modeling.analysis import PARTS, analyze, comparison_table, parts_table, saved_bytes

K = 3
DECODER = {"dim": 32, "depth": 1, "num_heads": 4}
REGIONS = {"encoder_num_heads": 4, "decoder_num_heads": 4, "decoder_depth": 2}
MODELS = {
    "rmae": {},
    "mae": {"region_branch": None},
    "rae": {"pixel_decoder": None},
    "attention": {"region_branch": {**REGIONS, "query_pool": "attention"}},
    "batch": {"region_branch": {**REGIONS, "variant": "batch"}},
    "channel": {"region_branch": {**REGIONS, "variant": "channel", "num_regions": K}},
    "input only": {"region_branch": {**REGIONS, "mask_ratio": 0}, "feeding": "region_to_pixel"},
    "target only": {"region_branch": {**REGIONS, "mask_ratio": 1}},
    "wide image": {"img_size": (64, 128)},
}


def builder(**changes):
    sizes = {"img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 4}
    branches = {"pixel_decoder": DECODER, "region_branch": REGIONS}
    feeding = changes.pop("feeding", "pixel_to_region")
    return lambda: RMAE(**build_parts(**{**sizes, **branches, **changes}), feeding=feeding)


def kept_bytes(model, batch):
    """What autograd keeps of a real forward pass, by the addresses of real memory."""
    net = model.backbone.net
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.randn(batch, 3, *net.img_size)
    maps = torch.rand(batch, K, *net.img_size) > 0.5
    order = random_shuffle(torch.arange(batch), net.num_patches)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.forward_tensors(images, maps, order)["loss"]
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", MODELS)
def test_against_a_real_model(name):
    build = builder(**MODELS[name])
    analysis, model = analyze(build, K), build().train()
    assert set(analysis.parameters) == set(analysis.macs) == set(PARTS)
    assert min(*analysis.parameters.values(), *analysis.macs.values()) >= 0
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(analysis.parameters.values()) == trainable
    real = kept_bytes(model, 4) - kept_bytes(model, 3)
    assert analysis.activation_bytes == real


def test_saved_bytes_are_those_of_activations():
    linear, x = torch.nn.Linear(10, 20), torch.randn(5, 10)
    # exp keeps its result, 5 x 20 of 4 bytes, and the layer its input; the weight is nobody's activation.
    count = saved_bytes(linear, lambda: linear(x).exp().sum())
    assert count == 4 * (5 * 20 + 5 * 10)


def test_parts_against_closed_forms():
    analysis = analyze(builder(), K)
    X, D, V, L, d = 256, 64, 4, 16, 128
    assert analysis.macs["pixel patch embed"] == 3 * X * D * V
    assert analysis.parameters["pixel patch embed"] == (3 * X + 1) * D
    assert analysis.macs["region patch embed"] == X * d * V * K

    def blocks(depth, tokens, width):
        """Linear layers and attention of transformer blocks."""
        return depth * (12 * tokens * width**2 + 2 * tokens**2 * width)

    encoder = blocks(2, 1 + V, D)
    assert analysis.macs["pixel encoder"] == encoder
    neck = D * d * (1 + V) + blocks(1, 1 + L, d)
    assert analysis.macs["neck"] == neck
    region_encoder = K * blocks(1, V, d)
    assert analysis.macs["region encoder"] == region_encoder
    assert analysis.macs["other"] == 0


def test_checkpointing_is_seen():
    build = builder()

    def checkpointed():
        model = build()
        model.backbone.net.use_act_checkpoint = True
        return model

    saving, plain = analyze(checkpointed, K), analyze(build, K)
    assert saving.macs == plain.macs
    assert 0.2 < saving.activation_bytes / plain.activation_bytes < 0.95


def test_tables():
    rmae, mae = analyze(builder(), K), analyze(builder(region_branch=None), K)
    rows = [row.split(" | ") for row in parts_table(mae).splitlines()]
    assert [row[0].strip("| ") for row in rows[2:-2]] == [
        "pixel patch embed",
        "pixel encoder",
        "pixel decoder",
        "all",
    ]
    header, _, first, second = (
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in comparison_table({"mae": mae, "rmae": rmae}).splitlines()
    )
    assert len(header) == len(first) == len(second)
    column = header.index("against the first")
    more = sum(rmae.macs.values()) / sum(mae.macs.values()) - 1
    assert (first[column], second[column]) == ("+0.00 %", f"{100 * more:+.2f} %")
    assert first[header.index("neck")] == "0.000" and "other" not in header
