import torch

from rmae_d2.modeling import MaskRequest, RandomMasking, mask_from_order, random_shuffle


def test_the_default_policy():
    request = MaskRequest(torch.tensor([3, 9]), (2, 5), 3, torch.zeros(2, 3, 16, 40))
    plan = RandomMasking()(request)
    assert torch.equal(plan.ids_shuffle, random_shuffle(request.seeds, 10))
    assert plan.region_order is plan.ids_shuffle and not plan.losses and not plan.scalars


def test_true_is_hidden():
    ids = torch.tensor([[2, 0, 1, 3], [3, 1, 2, 0]])
    mask = mask_from_order(ids, 1)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[True, True, False, True], [True, True, True, False]]
