import pytest
import torch
import torch.nn.functional as F

from rmae_d2.errors import UserError
from rmae_d2.evaluation.knn_segmentation import KNNHead, KNNSegmentation, patch_labels
from rmae_d2.modeling import MaskedViT
from rmae_d2.modeling.transfer.linear_probe import FrozenEncoder, LinearHead
from rmae_d2.modeling.transfer.segmentor import SlidingSemanticSegmentor


def test_a_patch_has_its_commonest_labelled_class():
    labels = torch.full((4, 6), 255, dtype=torch.uint8)
    labels[0, 0] = 2  # one pixel of class 2, three unlabelled
    labels[:2, 2:4] = torch.tensor([[1, 0], [0, 1]])  # a tie
    labels[2:, :2] = torch.tensor([[0, 0], [0, 3]])
    labels[2:, 2:4] = 3
    assert patch_labels(labels, 2, 4).tolist() == [[2, 0, -1], [0, 3, -1]]


def test_the_head_names_the_class_of_the_nearest_patch():
    bank = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), dim=1)
    head = KNNHead(bank, torch.tensor([2, 0, 1]), num_classes=4, stride=3, k=1, temperature=0.07)
    features = torch.tensor([[[5.0, -2.0]], [[0.1, 0.3]]])[None]  # (1, 2, 1, 2): two patches
    votes, losses = head({"patches": features})
    assert votes.shape == (1, 4, 3, 6) and losses == {}
    assert votes.argmax(dim=1)[0, 0].tolist() == [2, 2, 2, 1, 1, 1]
    assert votes.sum(dim=1) == pytest.approx(torch.ones(1, 3, 6))


def test_votes_weigh_by_likeness():
    bank = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.6, 0.8]]), dim=1)
    head = KNNHead(bank, torch.tensor([0, 1, 1]), num_classes=2, stride=1, k=3, temperature=0.5)
    votes, _ = head({"patches": torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)})
    weights = [1.0, *(torch.exp((bank[i, 0] - 1) / 0.5).item() for i in (1, 2))]
    expected = torch.tensor([weights[0], weights[1] + weights[2]]) / sum(weights)
    torch.testing.assert_close(votes.flatten(), expected)


class Correct:
    """An evaluator that counts pixels named right."""

    def reset(self):
        self.right = self.all = 0

    def process(self, inputs, outputs):
        for sample, output in zip(inputs, outputs, strict=True):
            self.right += int((output["sem_seg"].argmax(dim=0) == sample["truth"]).sum())
            self.all += sample["truth"].numel()

    def evaluate(self):
        return {"sem_seg": {"pACC": 100 * self.right / self.all}}


def test_a_segmentor_is_evaluated_by_the_patches_of_the_bank_and_stays_as_it_is():
    """Plain colours: an encoder of any weights tells them apart."""
    torch.manual_seed(0)
    net = MaskedViT(img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    torch.nn.init.normal_(net.patch_embed.proj.weight, std=0.5)
    shape = type("Shape", (), {"channels": 32, "stride": 8})
    model = SlidingSemanticSegmentor(
        backbone=FrozenEncoder(net),
        sem_seg_head=LinearHead({"patches": shape}, num_classes=3, norm="BN"),
        pixel_mean=[127.0] * 3,
        pixel_std=[64.0] * 3,
        inference="slide",
        window=16,
    ).train()
    colors = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250]], dtype=torch.uint8)

    def sample(i):
        labels = torch.full((16, 16), i, dtype=torch.uint8)
        return {
            "image": colors[i][:, None, None].expand(3, 16, 16),
            "sem_seg": labels,
            "truth": labels,
        }

    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = [[sample(i)] for i in range(3)]
    found = KNNSegmentation(bank=images, test=images, evaluator=Correct(), k=2)(model)
    assert found == {"knn_seg": {"pACC": 100.0}}
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_another_model_is_refused(make_rmae):
    with pytest.raises(UserError, match="not of a RMAE's: leave dataloader.knn out"):
        KNNSegmentation(bank=[], test=[], evaluator=Correct())(make_rmae())
