import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.checkpoint import export_backbone, load_generator, load_scorer
from rmae_d2.errors import CheckpointError
from rmae_d2.modeling import FrozenViT, LearnedMasking, MaskDiscriminator, MaskedViT, MaskGenerator
from tests.checkpoint import helpers
from tests.helpers import jittered

SIZE = {**helpers.SIZE, "depth": 3}


def test_timms_weights(tmp_path):
    """As DINO's are: timm's keys, a learned position table with a row for the cls token."""
    theirs = jittered(VisionTransformer(**SIZE, num_classes=5))
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    scorer = load_scorer(MaskedViT(**SIZE), str(tmp_path / "vit.pth"))
    for name, value in scorer.net.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    assert not scorer.net.training and scorer.fingerprint > 0


def test_our_weights_and_another_grid(tmp_path, make_rmae):
    ours = make_rmae(depth=3)
    torch.save({"model": ours.state_dict(), "iteration": 3}, tmp_path / "model_final.pth")
    net = MaskedViT(**{**SIZE, "img_size": (48, 40)})
    scorer = load_scorer(net, str(tmp_path / "model_final.pth"))
    assert torch.equal(net.blocks[2].attn.qkv.weight, ours.backbone.net.blocks[2].attn.qkv.weight)
    assert scorer.attention(torch.randn(1, 3, 48, 40)).shape == (1, 4, 30)
    # Positions are resized by arithmetic that rounds: they do not count.
    assert scorer.fingerprint == FrozenViT(ours.backbone.net).fingerprint


@pytest.mark.parametrize(
    ("size", "message"),
    [({"depth": 2}, "the model has no such part"), ({"embed_dim": 48}, "in the file")],
)
def test_weights_that_do_not_fit(tmp_path, make_rmae, size, message):
    torch.save(make_rmae(depth=3).state_dict(), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        load_scorer(MaskedViT(**{**SIZE, **size}), str(tmp_path / "file.pth"))
    assert "frozen scorer" in str(error.value) and "scorer.net" in str(error.value)


def test_weights_that_are_missing_or_broken(tmp_path, make_rmae):
    with pytest.raises(CheckpointError, match=r"masking\.generator\.scorer\.weights=FILE"):
        load_scorer(MaskedViT(**SIZE), "")
    with pytest.raises(CheckpointError, match=r"gone\.pth: no such weight file"):
        load_scorer(MaskedViT(**SIZE), str(tmp_path / "gone.pth"))
    model = make_rmae(depth=3)
    model.backbone.net.norm.bias.data[3] = torch.nan
    torch.save(model.state_dict(), tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match=r"nan\.pth: 1 of .* hold NaN"):
        load_scorer(MaskedViT(**SIZE), str(tmp_path / "nan.pth"))


def test_on_the_meta_device_no_file_is_read():
    with torch.device("meta"):
        generator = MaskGenerator(load_scorer(MaskedViT(**SIZE), "nowhere.pth"))
        assert load_generator(generator, "nowhere.pth") is generator
    assert generator.scorer.fingerprint == 0


def test_the_generator_of_an_earlier_run(tmp_path, make_rmae):
    def generator(scorer):
        return jittered(MaskGenerator(scorer))

    scorer = FrozenViT(jittered(MaskedViT(**SIZE)))
    first = generator(scorer)
    model = make_rmae(masking=LearnedMasking(first, MaskDiscriminator((4, 4))))
    torch.save({"model": model.state_dict()}, tmp_path / "run.pth")
    second = load_generator(generator(scorer), str(tmp_path / "run.pth"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(second(images), first(images))
    other = generator(FrozenViT(jittered(MaskedViT(**SIZE))))
    with pytest.raises(CheckpointError, match="another frozen scorer"):
        load_generator(other, str(tmp_path / "run.pth"))
    torch.save(make_rmae().state_dict(), tmp_path / "mae.pth")
    with pytest.raises(CheckpointError, match="holds no mask generator"):
        load_generator(second, str(tmp_path / "mae.pth"))
    with pytest.raises(CheckpointError, match="needs a generator"):
        load_generator(second, "")


def test_a_trained_policy_is_no_part_of_the_backbone(tmp_path, make_rmae):
    scorer = FrozenViT(MaskedViT(**SIZE))
    masking = LearnedMasking(MaskGenerator(scorer), MaskDiscriminator((4, 4)))
    model = make_rmae(masking=masking, feeding="both")
    export_backbone(model.state_dict(), str(tmp_path / "backbone.pth"))
    left = torch.load(tmp_path / "backbone.pth", weights_only=True)["model"]
    encoder = {key.removeprefix("backbone.net.") for key in model.state_dict()}
    assert left and set(left) <= encoder
