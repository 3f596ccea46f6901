"""AutoMAE's two players under the one trainer: optimizer groups, resume, processes, what is logged."""

import json
import shutil

import pytest
import torch
from detectron2.engine import HookBase

from rmae_d2.config import config_root
from rmae_d2.engine import Trainer
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.modeling import (
    FrozenViT,
    LearnedMasking,
    MaskDiscriminator,
    MaskedViT,
    MaskGenerator,
    MaskingPolicy,
    MaskPlan,
    random_shuffle,
)
from rmae_d2.solver import adversarial_params, scaled_adamw
from tests.helpers import events, records

CONFIG = config_root() / "pretrain/automae_rmae_vitb.py"
SCORER = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
SCALARS = ("loss_generator", "loss_discriminator", "mask_entropy", "discriminator_accuracy")


def write_scorer(path):
    torch.manual_seed(11)
    net = MaskedViT(**SCORER)
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """R-MAE + AutoMAE, tiny; the generator begins with an opinion of some weight."""
    weights = write_scorer(tmp_path_factory.mktemp("scorer") / "vit.pth")
    scorer = "model.masking.generator.scorer"
    return [
        "train.precision=fp32",
        "optimizer.base_lr=2e-2",
        "model.pixel_decoder.num_heads=4",
        f"{scorer}.weights={weights}",
        *(f"{scorer}.net.{name}={SCORER[name]}" for name in ("embed_dim", "depth", "num_heads")),
    ]


@pytest.fixture(scope="module")
def reference(runs, options, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "run"
    runs.train(out, *options, config=CONFIG)
    return out


def steps_of(out):
    lines = records(out)
    return {line["iteration"]: line for line in lines if "total_loss" in line}


def test_what_a_run_writes(reference):
    logged = steps_of(reference)
    assert len(logged) == 24
    for values in logged.values():
        assert set(SCALARS) <= set(values)
        parts = [v for k, v in values.items() if k.startswith("loss_")]
        assert values["total_loss"] == pytest.approx(sum(parts), rel=1e-5)
        assert 0 <= values["mask_entropy"] <= 1 and 0 <= values["discriminator_accuracy"] <= 1
    state = torch.load(reference / "model_final.pth", weights_only=True)
    masking = {key for key in state["model"] if key.startswith("masking.")}
    assert len(masking) == 4 + 3  # generator with a fingerprint, discriminator; no scorer
    # The discriminator learned: its group has moments of its own, and no weight decay.
    group = state["trainer"]["optimizer"]["param_groups"][-1]
    assert group["weight_decay"] == 0 and len(group["params"]) == 3
    assert all(
        int(state["trainer"]["optimizer"]["state"][i]["step"]) == 24 for i in group["params"]
    )


def test_both_players_move(reference):
    first, last = (
        torch.load(reference / name, weights_only=True)["model"]
        for name in ("model_0000005.pth", "model_final.pth")
    )
    for key in first:
        if key.startswith("masking.") and "fingerprint" not in key:
            assert not torch.equal(first[key], last[key]), key


def test_resumed_bit_for_bit(runs, options, reference, tmp_path, assert_same_runs):
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    for name in ("model_final.pth", "model_0000017.pth", "last_checkpoint", "run.jsonl"):
        (out / name).unlink()
    (out / "metrics.json").write_text(
        "".join(
            line + "\n"
            for line in (reference / "metrics.json").read_text().splitlines()
            if json.loads(line)["iteration"] < 12
        )
    )
    runs.train(out, *options, config=CONFIG, resume=True)
    assert [e["iteration"] for e in events(out, "resume")] == [12]
    assert_same_runs(reference, out)
    again, once = steps_of(out), steps_of(reference)
    assert all(again[i][name] == once[i][name] for i in once for name in SCALARS)


def test_another_scorer_does_not_resume(runs, options, reference, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    torch.manual_seed(12)
    torch.save(MaskedViT(**SCORER).state_dict(), tmp_path / "other.pth")
    weights = f"model.masking.generator.scorer.weights={tmp_path / 'other.pth'}"
    with pytest.raises(CheckpointError, match="another frozen scorer"):
        runs.train(out, *options, weights, "train.max_iter=26", config=CONFIG, resume=True)


def test_a_missing_scorer_ends_the_run_in_a_line(runs, tmp_path):
    with pytest.raises(CheckpointError, match=r"generator\.scorer\.weights=FILE"):
        runs.train(tmp_path / "run", "train.precision=fp32", config=CONFIG)


# Biases of keys move by rounding alone, see test_distributed.py; few steps keep that small.
FEW = "train.max_iter=6"


@pytest.fixture(scope="module")
def few(runs, options, tmp_path_factory):
    out = tmp_path_factory.mktemp("few") / "run"
    runs.train(out, *options, FEW, config=CONFIG)
    return steps_of(out)


def assert_close(found, expected):
    assert found.keys() == expected.keys() and len(found) == 6
    for step, values in expected.items():
        for name in (*SCALARS, "loss_pixel", "loss_region", "total_loss", "grad_norm"):
            assert found[step][name] == pytest.approx(values[name], rel=1e-5), (step, name)


def test_accumulation_is_as_one(runs, options, few, tmp_path):
    runs.train(tmp_path / "run", *options, FEW, "train.grad_accum=2", config=CONFIG)
    assert_close(steps_of(tmp_path / "run"), few)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_are_as_one(runs, options, few, tmp_path, two_processes, parallel):
    out = tmp_path / "run"
    parallel = f"train.parallel={parallel}"
    command = runs.command(out, *options, FEW, parallel, flags=two_processes, config=CONFIG)
    code, output = runs.run(command)
    assert code == 0, output
    assert_close(steps_of(out), few)


def test_bf16(runs, options, few, tmp_path):
    runs.train(tmp_path / "run", *options, FEW, "train.precision=bf16", config=CONFIG)
    for step, values in steps_of(tmp_path / "run").items():
        assert values["total_loss"] == pytest.approx(few[step]["total_loss"], rel=2e-2)


# ---- without a run


def make_model(make_rmae):
    net = MaskedViT(**SCORER)
    policy = LearnedMasking(MaskGenerator(FrozenViT(net)), MaskDiscriminator((4, 4)))
    return make_rmae(regions=None, masking=policy)


def make_batches(steps):
    generator = torch.Generator().manual_seed(4)
    for step in range(steps):
        yield [
            {
                "image": torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator),
                "mask_seed": 10 * step + i,
            }
            for i in range(4)
        ]


def test_the_discriminators_group_is_an_adam_of_its_own(make_rmae):
    """Against two optimizer objects, AdamW and Adam, stepped by hand."""
    model = make_model(make_rmae)
    numbers = {"lr_factor": 0.5, "betas": [0.5, 0.9], "weight_decay": 0.0}
    params = adversarial_params(model, numbers, weight_decay_norm=0.0, weight_decay_bias=0.0)
    one = scaled_adamw(params, base_lr=0.256, batch_size=4)
    twin = make_model(make_rmae)
    twin.load_state_dict(_without_fingerprint(model.state_dict()), strict=False)
    twin.masking.generator.scorer = model.masking.generator.scorer
    players = set(twin.masking.discriminator.parameters())
    rest = [
        {"params": [p], "weight_decay": 0.0 if p.ndim == 1 else 0.05}
        for p in twin.parameters()
        if p.requires_grad and p not in players
    ]
    main = torch.optim.AdamW(rest, lr=0.004, betas=(0.9, 0.95))
    own = torch.optim.Adam(list(players), lr=0.002, betas=(0.5, 0.9))
    trainer = Trainer(model, iter(make_batches(4)), one, device=torch.device("cpu"), log_period=1)
    trainer.train(0, 4)
    for batch in make_batches(4):
        main.zero_grad()
        own.zero_grad()
        sum(twin.train()(batch).values()).backward()
        main.step()
        own.step()
    for (name, a), (_, b) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)


def _without_fingerprint(state):
    return {key: value for key, value in state.items() if "fingerprint" not in key}


def test_a_model_without_a_discriminator_has_the_usual_groups(make_rmae):
    model = make_rmae()
    groups = adversarial_params(model, {"weight_decay": 0.0}, weight_decay_bias=0.0)
    count = sum(len(group["params"]) for group in groups)
    assert count == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("player", ["generator.conv1", "discriminator.convs.0"])
def test_a_player_that_is_not_finite_stops_the_run(make_rmae, tmp_path, player):
    """On the step before; the autoencoder's weights are sound."""
    model = make_model(make_rmae)

    class Poison(HookBase):
        def before_step(self):
            if self.trainer.iter == 2:
                model.masking.get_submodule(player).weight.data[0] = torch.nan
                self.trainer.sound = [p.detach().clone() for p in model.backbone.parameters()]

    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    trainer = Trainer(
        model,
        iter(make_batches(4)),
        optimizer,
        device=torch.device("cpu"),
        log_period=1,
        output_dir=str(tmp_path),
    )
    trainer.register_hooks([Poison()])
    with pytest.raises(UserError, match="not finite at iteration 2"):
        trainer.train(0, 4)
    assert all(map(torch.equal, trainer.sound, model.backbone.parameters()))


def test_collapse_is_reported_once(runs, options, tmp_path):
    """A floor above what can be: the first logged step says so, and only that."""
    out = tmp_path / "run"
    floor = "model.masking.entropy_floor=1.1"
    runs.train(out, *options, floor, "train.max_iter=4", config=CONFIG)
    told = [e["text"] for e in events(out, "warning") if "has collapsed" in e["text"]]
    assert len(told) == 1 and "the mask generator has collapsed: at iteration 0" in told[0]


def test_a_sound_generator_is_not_reported(reference):
    assert not any("has collapsed" in e["text"] for e in events(reference, "warning"))


def test_a_policy_hears_how_much_of_the_run_is_done(make_rmae):
    heard = []

    class Policy(MaskingPolicy):
        def forward(self, request):
            heard.append(request.progress)
            return MaskPlan(random_shuffle(request.seeds, request.num_patches))

    model = make_rmae(regions=None, masking=Policy())
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    trainer = Trainer(model, iter(make_batches(4)), optimizer, device=torch.device("cpu"))
    trainer.train(0, 4)
    assert heard == [0, 0.25, 0.5, 0.75]
