import pytest
import torch

from rmae_d2.modeling import (
    Batch,
    IndependentMasking,
    LearnedMasking,
    MaskDiscriminator,
    MaskRequest,
    num_visible,
    random_shuffle,
)
from rmae_d2.modeling.analysis import analyze
from rmae_d2.modeling.masking.generator import gumbel_softmax, rectangle_masks
from tests.helpers import region_samples
from tests.modeling.masking.helpers import P, make_learned, request_of

# ---- the order


def by_hand(policy, request):
    """Noise + bonus for the K highest of the sample, in plain Python."""
    sample = gumbel_softmax(policy.generator(request.images), request.seeds, policy.temperature)
    rank = random_shuffle(request.seeds, request.num_patches).argsort(dim=1)
    return sample, rank


def test_no_bonus_is_random_masking():
    request = request_of(range(50))
    plan = make_learned(bonus=0.0)(request)
    assert torch.equal(plan.ids_shuffle, random_shuffle(request.seeds, 16))


@pytest.mark.parametrize("num_marked", [None, 9])
def test_exactly_k_patches_are_marked(num_marked):
    """A bonus above all noise hides the marked patches before all others, both in random order."""
    policy = make_learned(bonus=2.0, num_marked=num_marked)
    request = request_of(range(30))
    sample, rank = by_hand(policy, request)
    K = num_marked or request.visible
    for i, order in enumerate(policy(request).ids_shuffle.tolist()):
        highest = sorted(range(16), key=lambda p, i=i: -sample[i, p].item())[:K]
        shown_first = sorted(set(range(16)) - set(highest), key=lambda p, i=i: rank[i, p].item())
        shown_last = sorted(highest, key=lambda p, i=i: rank[i, p].item())
        assert order == shown_first + shown_last


def test_marked_patches_are_hidden_more_often():
    """By the closed form of noise + 0.5: one of 4 marked among 16, all but one hidden, is shown by chance."""
    policy = make_learned(num_marked=4)
    n = 3000
    request = MaskRequest(torch.arange(n), (4, 4), 1, request_of([0]).images.expand(n, -1, -1, -1))
    sample, _ = by_hand(policy, request)
    marked = torch.zeros(n, 16).scatter(1, sample.topk(4, dim=1).indices, 1).bool()
    shown = policy(request).ids_shuffle[:, :1]
    found = marked.gather(1, shown).double().mean().item()
    # P = integral over x in (0, 1/2) of 4 (1 - x)^3 * P(all 12 others > x + 1/2).
    x = torch.linspace(0, 0.5, 100_001, dtype=torch.float64)
    expected = torch.trapezoid(4 * (1 - x) ** 3 * (0.5 - x) ** 12, x).item()
    assert found == pytest.approx(expected, abs=5 * (max(expected, 1e-4) / n) ** 0.5)


# ---- the gradient


def test_the_straight_through_gradient(make_rmae):
    """dL/dm = 0.5 <dL/dz', z> for visible tokens and 0 for hidden ones; values are not touched."""
    policy = make_learned()
    model = make_rmae(regions=None, masking=policy)
    net = model.backbone.net
    batch = region_samples()
    seen = {}

    def note(module, args):
        seen["z"] = args[0]
        args[0].retain_grad()

    def note_sample(module, args, verdict):
        seen["m"] = args[0]  # of the last call, the generator's
        args[0].retain_grad()

    hooks = [
        net.blocks[0].register_forward_pre_hook(note),
        policy.discriminator.register_forward_hook(
            lambda m, args, out: note_sample(m, args, out) if args[0].requires_grad else None
        ),
    ]
    losses = model.train()(batch)
    for hook in hooks:
        hook.remove()
    losses["loss_pixel"].backward()  # alone: what reconstruction says
    ids = policy(model_request(model, batch)).ids_shuffle  # the same again, a function of the seeds
    visible, hidden = ids[:, :4], ids[:, 4:]
    z = seen["z"]
    expected = 0.5 * (z.grad * z.detach()).sum(dim=2)[:, 1:]
    assert expected.abs().max() > 0
    torch.testing.assert_close(seen["m"].grad.gather(1, visible), expected)
    assert (seen["m"].grad.gather(1, hidden) == 0).all()
    for name, parameter in policy.named_parameters():
        reached = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert reached == name.startswith("generator."), name


def model_request(model, batch):
    seeds = torch.tensor([sample["mask_seed"] for sample in batch])
    net = model.backbone.net
    visible = num_visible(net.num_patches, model.mask_ratio)
    return MaskRequest(seeds, net.grid, visible, model.normalize(Batch.of(batch).images))


def test_gates_change_no_value(make_rmae):
    model = make_rmae(masking=make_learned())
    batch = region_samples()
    losses = model.train()(batch)
    ids = model.masking(model_request(model, batch)).ids_shuffle
    regions = torch.stack([sample["regions"] for sample in batch])
    plain = model.forward_tensors(model.normalize(Batch.of(batch).images), regions, ids)
    for name in ("loss_pixel", "loss_region"):
        assert torch.equal(losses[name], plain[name])


def test_each_player_learns_from_its_own_loss():
    policy = make_learned()
    for name, learns in (
        ("loss_generator", "generator."),
        ("loss_discriminator", "discriminator."),
    ):
        policy.zero_grad()
        policy(request_of(range(6))).losses[name].sum().backward()
        for parameter_name, parameter in policy.named_parameters():
            reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            assert reached == parameter_name.startswith(learns), (name, parameter_name)


def test_losses_are_least_squares():
    policy = make_learned(generator_weight=0.2)
    request = request_of(range(6))
    plan = policy(request)
    sample, _ = by_hand(policy, request)
    made = policy.discriminator(sample)[:, 0]
    torch.testing.assert_close(plan.losses["loss_generator"], 0.2 * (made - 1) ** 2)
    real = policy.discriminator(rectangle_masks(request.seeds, (4, 4)))[:, 0]
    torch.testing.assert_close(plan.losses["loss_discriminator"], (real - 1) ** 2 + made**2)
    right = ((real > 0.5).sum() + (made <= 0.5).sum()) / 12
    assert plan.scalars["discriminator_accuracy"].item() == pytest.approx(right.item())


# ---- in the model


@pytest.mark.parametrize("ratio", [0.3, 0.75, 0.9])
@pytest.mark.parametrize("size", [(32, 32), (32, 56)])
def test_one_step_of_rmae(make_rmae, ratio, size):
    """K regions, any ratio, grids that are not square: every trainable parameter has a gradient."""
    grid = (size[0] // P, size[1] // P)
    model = make_rmae(img_size=size, masking=make_learned(grid), mask_ratio=ratio).train()
    losses, scalars, _ = model(Batch.of(region_samples(size=size)))
    assert set(losses) == {"loss_pixel", "loss_region", "loss_generator", "loss_discriminator"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert set(scalars) == {"mask_entropy", "discriminator_accuracy"}
    assert not any(value.requires_grad for value in scalars.values())
    for out in model.eval()(region_samples(size=size)):
        assert (~out["mask"]).sum() == num_visible(grid[0] * grid[1], ratio)
        assert torch.equal(out["mask"], out["region_mask"])
        assert out["mask_probability"].sum().item() == pytest.approx(1, abs=1e-5)
        assert {key for key in out if key.startswith("loss")} == {"loss_pixel", "loss_region"}


def test_the_regions_own_order_leaves_the_gates(make_rmae):
    policy = make_learned()
    model = make_rmae(masking=IndependentMasking(policy)).train()
    model(region_samples())["loss_pixel"].backward()
    assert policy.generator.conv1.weight.grad.abs().sum() > 0
    assert "masking.pixels.generator.conv1.weight" in model.state_dict()


def test_what_is_compiled_computes_the_same(make_rmae):
    """The generator's gradient too, which passes from the compiled part to the policy, which is not."""
    model = make_rmae(masking=make_learned()).train()

    def step():
        model.zero_grad()
        losses = model(region_samples())
        sum(losses.values()).backward()
        return losses, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    expected, gradients = step()
    torch.compiler.reset()
    model.compile(backend="aot_eager", fullgraph=True)
    losses, found = step()
    for name in expected:
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-5, atol=0)
    for name in gradients:
        torch.testing.assert_close(found[name], gradients[name], rtol=1e-4, atol=1e-6)


def test_two_stages(make_rmae):
    """Without a discriminator the generator proposes and does not learn."""
    joint, fixed = make_learned(), make_learned(discriminator=False)
    fixed.generator.load_state_dict(joint.generator.state_dict())
    request = request_of(range(6))
    plan = fixed(request)
    assert torch.equal(plan.ids_shuffle, joint(request).ids_shuffle)
    assert plan.gates is None and not plan.losses
    model = make_rmae(masking=fixed).train()
    sum(model(region_samples()).values()).backward()
    assert all(p.grad is None for p in fixed.parameters())


def test_foreground_shares(make_rmae):
    """Half of the patches are foreground; all of them hidden is 8 of 12."""
    policy = make_learned(foreground=True)
    maps = torch.zeros(1, 32, 32, dtype=torch.bool)
    maps[:, 4:19] = True  # half of a patch is enough, three of its eight rows are not
    request = request_of([3], regions=maps)
    plan = policy(request)
    hidden, scalars = plan.ids_shuffle[0, 4:], plan.scalars
    assert scalars["all_foreground"].item() == 0.5
    assert scalars["hidden_foreground"].item() == pytest.approx((hidden < 8).double().mean().item())
    assert scalars["chosen_foreground"].item() == pytest.approx(
        plan.probability[0, :8].sum().item()
    )
    with pytest.raises(ValueError, match="foreground=True of LearnedMasking was given no regions"):
        policy(request_of([3]))
    model = make_rmae(regions=None, masking=policy).train()
    scalars = model(Batch.of(region_samples())).scalars
    assert {"hidden_foreground", "chosen_foreground", "all_foreground"} <= set(scalars)
    photos = [{k: v for k, v in sample.items() if k != "regions"} for sample in region_samples()]
    assert not model.eval().needs_regions
    assert "mask_probability" in model(photos)[0]  # labels are for the report of training
    assert model.train().masking.needs_regions
    apart = make_rmae(regions=None, masking=IndependentMasking(policy))
    assert not apart.eval().needs_regions and apart.train().needs_regions


def test_values_that_are_refused(make_rmae):
    for options, message in (
        ({"temperature": 0}, "temperature=0"),
        ({"num_marked": 17}, "num_marked=17 must be from 1 to 16"),
        ({"rectangle_area": (0.5, 1.5)}, "rectangle_area="),
        ({"rectangle_side": (0.5, 0.2)}, "rectangle_side="),
        ({"rectangle_drawn": "rows"}, "rectangle_drawn='rows' is none of columns, either"),
    ):
        with pytest.raises(ValueError, match=message):
            make_learned(**options)
    with pytest.raises(ValueError, match="discriminator has a grid"):
        LearnedMasking(make_learned().generator, MaskDiscriminator((5, 5)))
    model = make_rmae(img_size=(32, 40), masking=make_learned())
    with pytest.raises(ValueError, match="the model has a grid of"):
        model.eval()(region_samples(size=(32, 40)))


def test_a_model_that_is_only_counted(make_rmae):
    """Without values and without the policy's own share."""
    plain = analyze(lambda: make_rmae(), num_regions=3)
    learned = analyze(lambda: make_rmae(masking=make_learned()), num_regions=3)
    assert learned.macs == plain.macs and learned.activation_bytes == plain.activation_bytes
    players = sum(p.numel() for p in make_learned().parameters())
    assert sum(learned.parameters.values()) == sum(plain.parameters.values()) + players
