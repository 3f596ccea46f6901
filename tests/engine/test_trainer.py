"""The loop itself, on toy networks: precision, accumulation, clipping, and what a bad step leaves behind."""

import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from rmae_d2.engine import EMA, Checkpointer, EMAHook, PeriodicCheckpoint, Trainer
from rmae_d2.engine.trainer import seed_step
from rmae_d2.errors import UserError
from rmae_d2.events import EventWriter, read_events


class Toy(nn.Module):
    """Two losses on a linear map; a sample's ``poison`` is added to the first."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, batch):
        x = torch.stack([sample["x"] for sample in batch])
        poison = torch.tensor([sample.get("poison", 0.0) for sample in batch])
        y = self.linear(x)
        return {
            "loss_a": ((y - 1).pow(2).mean(1) + poison).mean(),
            "loss_b": 0.1 * y.abs().mean(),
        }


def make_batches(steps, size=4, poison=None):
    generator = torch.Generator().manual_seed(3)
    for step in range(steps):
        batch = [
            {
                "x": torch.randn(4, generator=generator),
                "file_name": f"{step}-{i}.jpg",
                "image_id": i,
            }
            for i in range(size)
        ]
        if poison is not None and step == poison[0]:
            batch[1]["poison"] = poison[1]
        yield batch


def make_optimizer(model, lr=0.05, **options):
    return torch.optim.AdamW(model.parameters(), lr=lr, **{"fused": True, **options})


def make_trainer(batches, tmp_path=None, model=None, optimizer=None, **options):
    model = model or Toy()
    optimizer = optimizer or make_optimizer(model)
    options = {
        "device": torch.device("cpu"),
        "log_period": 1,
        "output_dir": str(tmp_path),
        **options,
    }
    return Trainer(model, iter(batches), optimizer, **options)


class Record(HookBase):
    """Copies of the weights and the logged values after each step."""

    def __init__(self):
        self.weights, self.logged = [], []

    def after_step(self):
        self.weights.append([p.detach().clone() for p in self.trainer.model.parameters()])
        self.logged.append({k: v[0] for k, v in self.trainer.storage.latest().items()})


def train(trainer, steps):
    record = Record()
    trainer.register_hooks([record])
    trainer.train(0, steps)
    return record


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_step_equals_plain_pytorch():
    torch.manual_seed(1)
    trainer = make_trainer(make_batches(5))
    plain = Toy()
    plain.load_state_dict(trainer.model.state_dict())
    optimizer = make_optimizer(plain)
    record = train(trainer, 5)
    for step, batch in enumerate(make_batches(5)):
        losses = plain(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        norm = torch.stack([p.grad.pow(2).sum() for p in plain.parameters()]).sum().sqrt()
        optimizer.step()
        assert equal(record.weights[step], list(plain.parameters()))
        logged = record.logged[step]
        assert logged["grad_norm"] == pytest.approx(norm.item(), rel=1e-6)
        assert logged["loss_a"] == losses["loss_a"].item()
        assert logged["total_loss"] == pytest.approx(sum(losses.values()).item(), rel=1e-6)


def test_accumulation_equals_one_large_batch():
    torch.manual_seed(1)
    whole = make_trainer(make_batches(6, size=8))
    parts = make_trainer(
        (half for batch in make_batches(6, size=8) for half in (batch[:4], batch[4:])), grad_accum=2
    )
    parts.model.load_state_dict(whole.model.state_dict())
    a, b = train(whole, 6), train(parts, 6)
    for x, y in zip(a.logged, b.logged, strict=True):
        for name in ("loss_a", "loss_b", "total_loss", "grad_norm"):
            assert x[name] == pytest.approx(y[name], rel=1e-5)
    torch.testing.assert_close(a.weights[-1], b.weights[-1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(precision):
    torch.manual_seed(1)
    trainer = make_trainer(make_batches(60, size=16), precision=precision)
    record = train(trainer, 60)
    losses = [values["total_loss"] for values in record.logged]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="train.precision='fp8': one of fp32, bf16, fp16"):
        make_trainer([], precision="fp8")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_limits_the_gradient_but_logs_the_whole_norm(precision):
    norms = []  # of what reaches the optimizer

    def note(optimizer, args, kwargs):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())

    torch.manual_seed(1)
    trainer = make_trainer(make_batches(4), clip_grad=0.3, precision=precision)
    if precision == "fp16":  # whose usual first scale overflows here
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    trainer.optimizer.register_step_pre_hook(note)
    record = train(trainer, 4)
    assert len(norms) == 4 and all(0.29 < value <= 0.3 * 1.001 for value in norms)
    assert all(values["grad_norm"] > 0.5 for values in record.logged)


def test_logged_values_are_means_over_the_period():
    torch.manual_seed(1)
    each = make_trainer(make_batches(6))
    third = make_trainer(make_batches(6), log_period=3)
    third.model.load_state_dict(each.model.state_dict())
    a, b = train(each, 6), train(third, 6)
    expected = sum(values["loss_a"] for values in a.logged[3:]) / 3
    assert b.logged[-1]["loss_a"] == pytest.approx(expected, rel=1e-6)
    assert "loss_a" not in b.logged[1] and "loss_a" in b.logged[2]
    assert equal(a.weights[-1], b.weights[-1])


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_bad_loss_stops_at_once_and_leaves_the_weights(tmp_path, precision, poison):
    """The poison adds to the loss only: the gradients themselves stay finite."""
    torch.manual_seed(1)
    trainer = make_trainer(make_batches(9, poison=(5, poison)), tmp_path, precision=precision)
    record = Record()
    trainer.register_hooks([record])
    with pytest.raises(UserError, match="not finite at iteration 5.*nonfinite_batch_rank0.json"):
        trainer.train(0, 9)
    assert trainer.iter == 5
    assert equal(record.weights[-1], list(trainer.model.parameters()))
    content = json.loads((tmp_path / "nonfinite_batch_rank0.json").read_text())
    assert content["iteration"] == 5
    assert [image["file_name"] for image in content["images"]] == [f"5-{i}.jpg" for i in range(4)]


def test_a_bad_gradient_stops_too(tmp_path):
    torch.manual_seed(1)
    trainer = make_trainer(make_batches(5), tmp_path)
    trainer.model.linear.weight.register_hook(
        lambda grad: grad * float("nan") if trainer.iter == 2 else grad
    )
    record = Record()
    trainer.register_hooks([record])
    with pytest.raises(UserError, match="iteration 2"):
        trainer.train(0, 5)
    assert equal(record.weights[-1], list(trainer.model.parameters()))


class Polled(Trainer):
    """A trainer that polls as it does where the device is not the host's."""

    def run_step(self):
        self.device = SimpleNamespace(type="cpu-polled")
        super().run_step()

    def _forward_backward(self, batch, sync):
        self.device = torch.device("cpu")
        try:
            return super()._forward_backward(batch, sync)
        finally:
            self.device = SimpleNamespace(type="cpu-polled")


@pytest.mark.parametrize("options", [{"fused": True}, {"fused": False}], ids=["fused", "plain"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nothing_is_applied_between_a_bad_step_and_its_discovery(tmp_path, precision, options):
    torch.manual_seed(1)
    model = Toy()
    optimizer = make_optimizer(model, **options)
    trainer = Polled(
        model,
        make_batches(20, poison=(6, float("inf"))),
        optimizer,
        device=torch.device("cpu"),
        precision=precision,
        log_period=5,
        output_dir=str(tmp_path),
    )
    if precision == "fp16":
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    record = Record()
    trainer.register_hooks([record])
    with pytest.raises(UserError, match="iteration 6"):
        trainer.train(0, 20)
    assert trainer.iter == 9  # the last of its period
    assert not equal(record.weights[4], record.weights[5])
    for weights in [*record.weights[6:], list(model.parameters())]:
        assert equal(record.weights[5], weights)
    for state in optimizer.state.values():
        assert state["step"] == 6
    content = json.loads((tmp_path / "nonfinite_batch_rank0.json").read_text())
    assert content["images"][0]["file_name"] == "6-0.jpg"


def test_nothing_is_saved_between_a_bad_step_and_its_discovery(tmp_path):
    torch.manual_seed(1)
    model = Toy()
    trainer = Polled(
        model,
        make_batches(20, poison=(4, float("nan"))),
        make_optimizer(model),
        device=torch.device("cpu"),
        log_period=10,
        output_dir=str(tmp_path),
    )
    checkpointer = Checkpointer(model, str(tmp_path), trainer=trainer)
    events = EventWriter(tmp_path)
    trainer.register_hooks([PeriodicCheckpoint(checkpointer, 3, max_to_keep=0, events=events)])
    with pytest.raises(UserError, match="iteration 4"):
        trainer.train(0, 20)
    assert trainer.iter == 5
    assert [path.name for path in checkpointer.numbered()] == ["model_0000002.pth"]
    assert [e["file"] for e in read_events(events.path)[0]] == ["model_0000002.pth"]


def test_fp16_recovers_from_gradient_overflow(tmp_path):
    """An overflow of scaled gradients is not a bad step: the scale is halved and training goes on."""
    torch.manual_seed(1)
    trainer = make_trainer(make_batches(30), tmp_path, precision="fp16")
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    first = [p.detach().clone() for p in trainer.model.parameters()]
    record = train(trainer, 30)
    assert trainer.grad_scaler.get_scale() < 2.0**40
    assert equal(first, record.weights[0]) and not equal(first, record.weights[-1])


def test_average_of_weights_equals_hand_computation():
    torch.manual_seed(1)
    trainer = make_trainer(make_batches(7))
    ema = EMA(trainer.model, decay=0.9)
    record = Record()
    trainer.register_hooks([record, EMAHook(ema)])
    trainer.train(0, 7)
    expected = record.weights[0]  # the first update is a copy
    for weights in record.weights[1:]:
        expected = [0.9 * a + 0.1 * w for a, w in zip(expected, weights, strict=True)]
    torch.testing.assert_close(list(ema.averaged.values()), expected)
    other = EMA(trainer.model, decay=0.9)
    other.load_state_dict(ema.state_dict())
    assert equal(other.averaged.values(), ema.averaged.values())
    assert other.updates == 7


def test_random_numbers_depend_on_seed_step_and_part_only():
    def draw(*key):
        seed_step(*key)
        return torch.rand(1).item()

    assert draw(0, 5, 0) == draw(0, 5, 0)
    assert len({draw(0, 5, 0), draw(1, 5, 0), draw(0, 6, 0), draw(0, 5, 1)}) == 4
