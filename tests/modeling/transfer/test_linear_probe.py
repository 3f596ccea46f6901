import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from rmae_d2.checkpoint import load_pretrained
from rmae_d2.errors import UserError
from rmae_d2.modeling import MaskedViT, PixelEncoder, SlidingSemanticSegmentor
from rmae_d2.modeling.transfer.linear_probe import FrozenEncoder, LinearHead
from tests.helpers import jittered


def make_net():
    return jittered(MaskedViT((32, 48), 8, embed_dim=16, depth=2, num_heads=2), 0.3)


def make_model():
    backbone = FrozenEncoder(make_net())
    head = LinearHead(backbone.output_shape(), num_classes=3, norm="BN")
    return SlidingSemanticSegmentor(
        backbone=backbone,
        sem_seg_head=head,
        pixel_mean=[120.0] * 3,
        pixel_std=[60.0] * 3,
    )


def test_features_are_the_encoders_patches():
    net = make_net()
    images = torch.randn(2, 3, 32, 48)
    found = FrozenEncoder(net)(images)["patches"]
    assert found.shape == (2, 16, 4, 6) and not found.requires_grad
    expected = PixelEncoder(net).encode_image(images)[:, 1:]
    torch.testing.assert_close(found[:, :, 2, 5], expected[:, 2 * 6 + 5])
    with pytest.raises(UserError, match=r"\(32, 32\) pixels given to an encoder of \(32, 48\)"):
        FrozenEncoder(net)(images[:, :, :, :32])


def test_logits_are_linear_in_the_normalised_patches():
    head = LinearHead({"x": ShapeSpec(channels=4, stride=8)}, num_classes=3, norm="BN").eval()
    head.norm.running_mean.uniform_()
    x = torch.randn(1, 4, 2, 3)
    logits, losses = head({"x": x})
    assert logits.shape == (1, 3, 16, 24) and losses == {}
    normalised = (x - head.norm.running_mean[:, None, None]) / (1 + head.norm.eps) ** 0.5
    low = torch.einsum("cd,bdhw->bchw", head.predictor.weight[:, :, 0, 0], normalised)
    expected = F.interpolate(low, (16, 24), mode="bilinear")
    torch.testing.assert_close(logits, expected)
    labels = torch.randint(0, 3, (1, 16, 24))
    labels[:, :4] = 255
    head.train().norm.eval()
    loss = head({"x": x}, labels)[1]["loss_sem_seg"]
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, ignore_index=255))
    with pytest.raises(UserError, match="reads one feature, not p2, p3"):
        LinearHead(dict.fromkeys(("p2", "p3"), ShapeSpec(channels=4, stride=8)), num_classes=3)


def test_only_the_head_learns(make_rmae, tmp_path):
    """From a file of pre-training; a step moves the head, and the encoder stays to the last bit."""
    trained = make_rmae(img_size=(32, 48), embed_dim=16, depth=2, num_heads=2)
    torch.save(trained.state_dict(), tmp_path / "model.pth")
    model = make_model().train()
    report = load_pretrained(model, str(tmp_path / "model.pth"))
    assert not report.refused and all(name.startswith("sem_seg_head.") for name in report.new)
    assert not model.backbone.net.training and model.sem_seg_head.training
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sample = {"image": torch.rand(3, 32, 48) * 255, "sem_seg": torch.randint(0, 3, (32, 48))}
    losses = model([sample, sample])
    losses["loss_sem_seg"].backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {f"sem_seg_head.{k}" for k in model.sem_seg_head.state_dict()}
