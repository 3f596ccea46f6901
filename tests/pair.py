"""What ``Runs.pair`` starts: two processes, with one run after the other."""

import argparse
import json
import sys
from itertools import pairwise

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from omegaconf import OmegaConf
from timm.models.vision_transformer import Block
from torch import nn

from rmae_d2.engine import Trainer, main, parallelize
from rmae_d2.engine.launch import launch_training
from rmae_d2.engine.parallel import local
from rmae_d2.errors import UserError


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(8, 2) for _ in range(2))

    def forward(self, batch):
        x = batch[0]["x"]
        for block in self.blocks:
            x = block(x)
        return {"loss": (x - 1).pow(2).mean()}


class Late(Trainer):
    # Polls as it does where the device is not the host's.
    def check_finite(self):
        if (self.iter + 1) % self.log_period == 0:
            super().check_finite()


class Record(HookBase):
    def __init__(self):
        self.weights = []

    def after_step(self):
        self.weights.append([local(p).clone() for p in self.trainer.model.parameters()])


def batches():
    # A value of one rank is not finite at step 6.
    for step in range(20):
        x = torch.randn(2, 3, 8)
        yield [{"x": x * float("nan") if step == 6 and comm.get_rank() == 1 else x}]


def nan_on_one_rank(parallel, fused, folder):
    torch.manual_seed(comm.get_rank())  # the weights too are the main process's alone
    cpu = torch.device("cpu")
    train = OmegaConf.create({"parallel": parallel, "precision": "fp32", "ddp": {}})
    model = parallelize(Toy(), train, cpu)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    record = Record()
    trainer = Late(model, batches(), optimizer, device=cpu, log_period=5, output_dir=folder)
    trainer.register_hooks([record])
    try:
        trainer.train(0, 20)
    except UserError as error:
        message = str(error)
    same = [
        all(torch.equal(a, b) for a, b in zip(x, y, strict=True))
        for x, y in pairwise(record.weights)
    ]
    steps = {float(state["step"]) for state in optimizer.state.values()}
    now = [local(p) for p in model.parameters()]
    same.append(all(torch.equal(a, b) for a, b in zip(record.weights[-1], now, strict=True)))
    return {"message": message, "iter": trainer.iter, "same": same, "steps": sorted(steps)}


def runs(args):
    scenarios, folder = json.loads(args.opts[0]), args.opts[1]
    for name, config, opts, more in scenarios:
        if config is not None:
            opts = [opt.replace("{rank}", str(comm.get_rank())) for opt in opts]
        arguments = {
            "config_file": config,
            "resume": False,
            "eval_only": False,
            "opts": opts,
            **more,
        }
        try:
            if config is None:
                results = nan_on_one_rank(*opts, folder)
            else:
                results = main(argparse.Namespace(**arguments))
        except UserError as error:
            results = str(error)
        with open(f"{folder}/{name}_rank{comm.get_rank()}.json", "w") as file:
            json.dump(results, file)


if __name__ == "__main__":
    common = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    launch_training(runs, argparse.Namespace(**common, opts=sys.argv[1:]))
