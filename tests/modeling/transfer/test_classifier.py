"""The classifier against timm's ViT and timm's training step; what is frozen, loaded and refused."""

import random

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from hypothesis import given
from hypothesis import strategies as st
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rmae_d2.checkpoint import load_pretrained
from rmae_d2.errors import CheckpointError
from rmae_d2.modeling import MaskedViT, PixelEncoder
from rmae_d2.modeling.transfer.classifier import Classifier, FeatureExtractor, add_classifier_config
from tests.helpers import hf_mae_config, jittered

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
CLASSES = 7
HF_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("image_size", "patch_size", "layer_norm_eps"),
)
NORMS = {"mean": ("fc_norm", "norm"), "cls": ("norm", "fc_norm")}


def make(
    mode="finetune", pool="mean", classes=CLASSES, drop_path_rate=0.0, embed_dim=32, **arguments
):
    """A classifier in which every parameter is random, norms and biases too."""
    net = MaskedViT(**{**SIZE, "embed_dim": embed_dim}, drop_path_rate=drop_path_rate)
    model = Classifier(
        backbone=PixelEncoder(net), num_classes=classes, mode=mode, pool=pool, **arguments
    )
    return jittered(model)


def batch(count=6, classes=CLASSES):
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,)).tolist()
    return [
        {"image": image, "label": label, "file_name": f"{i}.jpg"}
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True))
    ]


def timm_twin(model):
    """timm's own network with the same weights."""
    pool = {"mean": "avg", "cls": "token"}[model.pool]
    twin = VisionTransformer(**SIZE, num_classes=CLASSES, global_pool=pool)
    weights = {k.removeprefix("backbone.net."): v for k, v in model.state_dict().items()}
    twin.load_state_dict(weights, strict=True)
    return twin.train(model.training)


def normalised(samples):
    mean, std = (
        torch.tensor(x)[:, None, None] for x in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    return (torch.stack([s["image"] for s in samples]).float() - mean) / std


def timm_model(pool, classes=CLASSES):
    return jittered(VisionTransformer(**SIZE, num_classes=classes, global_pool=pool)).eval()


@pytest.mark.parametrize("theirs, ours", [("avg", "mean"), ("token", "cls")])
def test_a_classifier_of_timms_is_evaluated(theirs, ours, tmp_path):
    """From its file to the same logits; MAE's and DeiT's released classifiers have the same names."""
    twin, model = timm_model(theirs), make(pool=ours).eval()
    torch.save({"model": twin.state_dict()}, tmp_path / "finetuned.pth")
    report = load_pretrained(model, str(tmp_path / "finetuned.pth"), require_all=True)
    assert report.kind == "timm" and not report.new and not report.unused
    samples = batch()
    with torch.no_grad():
        found = torch.stack([output["logits"] for output in model(samples)])
        expected = twin(normalised(samples))
    assert found.shape == (6, CLASSES) and expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    there, away = NORMS[ours]
    modules = {"fc_norm": model.fc_norm, "norm": model.backbone.net.norm}
    assert isinstance(modules[there], nn.LayerNorm) and isinstance(modules[away], nn.Identity)


def seed(number):
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("mixing", [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_a_training_step_is_timms(mixing, number):
    """Erasing, mixing, drop path, loss and all gradients, from the same random numbers."""
    mixup_alpha, cutmix_alpha = mixing
    model = make(
        drop_path_rate=0.3,
        label_smoothing=0.1,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        random_erasing=0.5,
    )
    twin = timm_twin(model)
    for ours, theirs in zip(model.backbone.net.blocks, twin.blocks, strict=True):
        theirs.load_state_dict(ours.state_dict())
        theirs.drop_path1, theirs.drop_path2 = ours.drop_path1, ours.drop_path2
    samples = batch()

    seed(number)
    losses = model(samples)
    losses["loss_cls"].backward()

    seed(number)
    images, labels = normalised(samples), torch.tensor([s["label"] for s in samples])
    images = RandomErasing(0.5, mode="pixel", device="cpu")(images)
    if any(mixing):
        mix = Mixup(
            mixup_alpha=mixup_alpha,
            cutmix_alpha=cutmix_alpha,
            label_smoothing=0.1,
            num_classes=CLASSES,
        )
        images, targets = mix(images, labels)
        expected = SoftTargetCrossEntropy()(twin(images), targets)
    else:
        expected = LabelSmoothingCrossEntropy(0.1)(twin(images), labels)
    expected.backward()

    assert losses.keys() == {"loss_cls"}
    torch.testing.assert_close(losses["loss_cls"], expected, rtol=1e-5, atol=1e-6)
    theirs = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        other = theirs[name.removeprefix("backbone.net.")].grad
        torch.testing.assert_close(parameter.grad, other, rtol=1e-4, atol=1e-6, msg=name)


def test_all_of_a_finetuned_model_learns():
    """DDP refuses parameters without a gradient; the position embedding is no longer fixed."""
    for pool in ("mean", "cls"):
        model = make(pool=pool)
        sum(model(batch()).values()).backward()
        assert all(p.requires_grad and p.grad is not None for p in model.parameters())
        assert model.backbone.net.pos_embed.grad.abs().sum() > 0


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_linear_mode_by_hand(pool):
    model = make("linear", pool, drop_path_rate=0.9)
    assert model.training and not model.backbone.training
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    samples = batch(16)
    loss = model(samples)["loss_cls"]
    loss.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head.1.weight", "head.1.bias"}
    assert all((p.grad is not None) == (n in trained) for n, p in model.named_parameters())

    tokens = model.backbone.encode_image(normalised(samples))
    features = tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(dim=1)
    mean, variance = features.mean(dim=0), features.var(dim=0, unbiased=False)
    whitened = (features - mean) / (variance + 1e-6).sqrt()
    linear = model.head[1]
    logits = whitened @ linear.weight.T + linear.bias
    labels = torch.tensor([s["label"] for s in samples])
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, labels))

    # Running means of one batch, at momentum 0.1, serve the evaluation.
    torch.testing.assert_close(model.head[0].running_mean, 0.1 * mean)
    model.eval()
    variance = 0.9 + 0.1 * features.var(dim=0)
    whitened = (features - 0.1 * mean) / (variance + 1e-6).sqrt()
    found = torch.stack([output["logits"] for output in model(samples)])
    torch.testing.assert_close(found, whitened @ linear.weight.T + linear.bias)
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())


def test_linear_mode_keeps_no_activations_of_the_encoder():
    model, samples = make("linear", "cls"), batch(16)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: sizes.append(x.numel()) or x, lambda x: x
    ):
        model(samples)
    assert max(sizes) <= 16 * SIZE["embed_dim"]


def test_an_own_checkpoint_is_complete():
    model, other = make("linear", "cls"), make("linear", "cls")
    model(batch())
    load_pretrained(other, model.state_dict(), require_all=True)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"head\.1\.weight: not in the file"):
        load_pretrained(other, model.backbone.net.state_dict(), require_all=True)


def test_a_probe_under_maes_names_is_evaluated():
    model, other = make("linear", "cls"), make("linear", "cls").eval()
    model(batch())
    theirs = {k.removeprefix("backbone.net."): v for k, v in model.eval().state_dict().items()}
    assert "head.0.running_mean" in theirs
    load_pretrained(other, theirs, require_all=True)
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(other.logits(images), model.logits(images))


def test_a_classifier_of_hugging_face_is_evaluated():
    transformers = pytest.importorskip("transformers")
    sizes = {k: v for k, v in hf_mae_config().to_dict().items() if k in HF_SIZES}
    config = transformers.ViTConfig(**sizes, num_labels=CLASSES)
    twin = transformers.ViTForImageClassification(config).eval()
    for parameter in twin.parameters():
        nn.init.normal_(parameter, std=0.2)
    model = make(pool="cls").eval()
    assert load_pretrained(model, twin.state_dict(), require_all=True).kind == "hf_vitmae"
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        found, expected = model.logits(images), twin(images).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_classifier_that_does_not_fit_says_which_would(pool):
    weights = timm_model(pool, classes=11).state_dict()
    ours = {"avg": "mean", "token": "cls"}[pool]
    says = f"classifier is one of model.mode=finetune model.pool={ours} model.num_classes=11"
    other = {"avg": "cls", "token": "mean"}[pool]
    for model in (make(pool=ours), make(pool=other, classes=11), make("linear", ours, classes=11)):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=says):
            load_pretrained(model, weights, require_all=True)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"model\.backbone\.net\.\{embed_dim,depth"):
        load_pretrained(make(pool=ours, embed_dim=16), weights, require_all=True)


def test_pretrained_weights_are_no_classifier(make_rmae):
    with pytest.raises(CheckpointError, match="holds no classifier: train one from it first"):
        load_pretrained(make(pool="cls"), make_rmae(embed_dim=32).state_dict(), require_all=True)


@pytest.mark.parametrize(
    "theirs, classes, ours, taken",
    [
        ("avg", CLASSES, "mean", True),
        ("token", CLASSES, "cls", True),
        # Behind another norm, or of other classes.
        ("token", CLASSES, "mean", False),
        ("avg", 11, "mean", False),
    ],
)
def test_training_begins_with_a_head_only_where_it_fits(theirs, classes, ours, taken):
    weights, model = timm_model(theirs, classes).state_dict(), make(pool=ours)
    before = model.head.weight.clone()
    report = load_pretrained(model, weights)
    assert torch.equal(model.head.weight, weights["head.weight"] if taken else before)
    head = {"head.weight", "head.bias"}
    assert set(report.new) == (set() if taken else head | ({n for n in report.new if "fc_" in n}))
    assert head.isdisjoint(report.unused) == taken
    own = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.net.")}
    assert all(torch.equal(v, weights[k.removeprefix("backbone.net.")]) for k, v in own.items())


@given(
    count=st.integers(1, 5),
    label=st.integers(-3, 12),
    mode=st.sampled_from(["linear", "finetune"]),
    mixing=st.sampled_from([0.0, 0.8]),
)
def test_batches_that_cannot_be_trained_on(count, label, mode, mixing):
    model = make(mode, "cls", mixup_alpha=mixing)
    samples = batch(count)
    samples[-1]["label"] = label
    if not 0 <= label < CLASSES:
        message = rf"{count - 1}\.jpg has label {label}, the model 7 classes: set model.num_classes"
    elif mode == "linear" and count == 1:
        message = "1 image per process"
    elif mixing and count % 2:
        message = f"this one has {count} per process"
    else:
        assert torch.isfinite(model(samples)["loss_cls"])
        return
    with pytest.raises(ValueError, match=message):
        model(samples)


def test_images_of_another_size():
    samples = batch(2)
    samples[1]["image"] = samples[1]["image"][:, :24]
    with pytest.raises(ValueError, match=r"1\.jpg comes as .*\(3, 24, 32\).*\(3, 32, 32\)"):
        make()(samples)
    with pytest.raises(ValueError, match=r"0\.jpg comes as .*\(3, 24, 32\).*\(3, 32, 32\)"):
        make()([{**samples[1], "file_name": "0.jpg"}])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "probe"}, "mode='probe': one of linear, finetune"),
        ({"pool": "max"}, "pool='max': one of cls, mean"),
        ({"pixel_mean": [1.0]}, "1 values in pixel_mean"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_heads_begin_small():
    for mode, std in (("linear", 0.01), ("finetune", 2e-5)):
        net = MaskedViT(**SIZE)
        model = Classifier(backbone=PixelEncoder(net), num_classes=1000, mode=mode)
        linear = model.head[1] if mode == "linear" else model.head
        assert linear.weight.std().item() == pytest.approx(std, rel=0.1)
        assert not linear.bias.any()


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_feature_extractor_shares_the_encoder(make_rmae, pool):
    pretrained = make_rmae(embed_dim=32)
    extractor = FeatureExtractor.of(pretrained, pool)
    assert extractor.training and extractor.backbone is pretrained.backbone
    samples = batch(3)
    with pytest.raises(RuntimeError, match="--eval-only"):
        extractor(samples)
    extractor.eval()
    found = torch.stack([output["features"] for output in extractor(samples)])
    tokens = pretrained.backbone.encode_image(normalised(samples))
    expected = tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(dim=1)
    torch.testing.assert_close(found, expected)
    half = FeatureExtractor.of(pretrained.eval(), pool, "bf16")(samples)[0]["features"]
    assert half.dtype == torch.float32 and not torch.equal(half, found[0])
    torch.testing.assert_close(half, found[0], rtol=0.1, atol=0.1)
    with pytest.raises(ValueError, match="precision='fp8'"):
        FeatureExtractor.of(pretrained, pool, "fp8")


def test_detectron2_builds_it_by_name():
    cfg = get_cfg()
    add_classifier_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "Classifier"
    size = {"IMG_SIZE": [32, 32], "PATCH_SIZE": 8, "EMBED_DIM": 32, "DEPTH": 2, "NUM_HEADS": 4}
    for key, value in size.items():
        cfg.MODEL.RMAE[key] = value
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = CLASSES
    model = build_model(cfg)
    assert isinstance(model, Classifier) and model.mode == "linear"
    assert model(batch())["loss_cls"].requires_grad
    cfg.MODEL.CLASSIFIER.MODE, cfg.MODEL.CLASSIFIER.POOL = "finetune", "mean"
    cfg.MODEL.CLASSIFIER.DROP_PATH_RATE = 0.2
    assert build_model(cfg).backbone.net.blocks[1].drop_path1.drop_prob == 0.2
