"""One training loop for CPU and GPU; fp32, bf16 and fp16; gradient accumulation and clipping.

Nothing in a step waits for the device: losses and norms stay there until they are logged, and a non-finite
value freezes the weights on the device itself, before the host knows of it.
"""

import json
import logging
import os
import random
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import Tensor, nn

from ..data.loader import AnyBatch, SkipCounter
from ..errors import UserError
from ..modeling import PRECISIONS, RMAE, Batch
from .parallel import (
    clip_gradients,
    gradient_sync,
    is_sharded,
    optimizer_as_sharded,
    unwrap,
    whole,
)
from .throughput import Peak, step_flops

logger = logging.getLogger(__name__)


class Trainer(TrainerBase):
    """Runs optimizer steps; everything periodic is a Detectron2 hook.

    Args:
        model: an RMAE, or a model that returns a dict of losses, like Detectron2's; possibly wrapped in DDP
            or sharded by FSDP.
        batches: yields micro-batches, ``grad_accum`` of them per step.
        optimizer: should be fused so that the host never waits; others cause one device sync per step.
        device: the model's device.
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast; fp16 with loss scaling).
        clip_grad: largest total gradient norm; 0 for no clipping. The norm is always logged.
        seed: the random numbers of step i on rank r are a function of (seed, i, r).
        log_period: steps between logged values; each is the mean over the steps since the last.
        output_dir: receives the record of a non-finite batch.
        skip_counter: counts unreadable images, and ends the run when there are too many.
        peak: of the device, to log the fraction of it that is used (MFU).
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterator[AnyBatch],
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: str = "fp32",
        grad_accum: int = 1,
        clip_grad: float = 0.0,
        seed: int = 0,
        log_period: int = 20,
        output_dir: str = ".",
        skip_counter: SkipCounter | None = None,
        peak: Peak | None = None,
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise UserError(f"train.precision={precision!r}: one of {', '.join(PRECISIONS)}")
        model.train()
        self.model = model
        self._plain = unwrap(model)
        self.batches = batches
        self.optimizer = optimizer
        self.device = device
        self.dtype = PRECISIONS[precision]
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.grad_accum = grad_accum
        self.clip_grad = clip_grad
        self.seed = seed
        self.log_period = log_period
        self.output_dir = output_dir
        self.skip_counter = skip_counter
        self.peak = peak
        self._flops_per_image: float | None = None
        self._params = [p for group in optimizer.param_groups for p in group["params"]]
        self._clip = clip_gradients if is_sharded(model) else nn.utils.clip_grad_norm_
        # The first non-finite iteration, or -1: while it is set, no update is applied.
        self._bad_iter = torch.full((), -1, dtype=torch.int64, device=device)
        self._recent: deque[tuple[int, list[dict[str, Any]]]] = deque(maxlen=log_period)
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._images = 0
        self._data_time = 0.0
        self._window_start = time.perf_counter()

    def run_step(self) -> None:
        """Run one optimizer step over ``grad_accum`` micro-batches."""
        losses: dict[str, Tensor] = {}
        scalars: dict[str, Tensor] = {}
        sources: list[dict[str, Any]] = []
        for micro in range(self.grad_accum):
            # The number another process would use: accumulation is equivalent to more processes.
            part = micro * comm.get_world_size() + comm.get_rank()
            batch = self._next_batch(sources)
            if self.iter == self.start_iter and micro == 0:
                self._begin_measuring(batch)
            seed_step(self.seed, self.iter, part)
            last = micro == self.grad_accum - 1
            found, reported = self._forward_backward(batch, sync=last)
            for name, value in found.items():
                losses[name] = losses.get(name, 0) + value.detach() / self.grad_accum
            for name, value in reported.items():
                scalars[name] = scalars.get(name, 0) + value / self.grad_accum
        self._recent.append((self.iter, sources))
        self.after_backward()
        losses["total_loss"] = torch.stack([v.float() for v in losses.values()]).sum()
        self._update(losses)
        self._collect({**losses, **scalars})
        # A host that shares memory with the device can check at once, at no cost.
        if self.device.type == "cpu" or (self.iter + 1) % self.log_period == 0:
            self.check_finite()
        if (self.iter + 1) % self.log_period == 0 or self.iter + 1 == self.max_iter:
            self._log()

    def _begin_measuring(self, batch: AnyBatch) -> None:
        """Count the model's operations; earlier time, such as the loader's start, is not training time."""
        if self.peak is not None:
            with whole(self.model) as plain:
                self._flops_per_image = step_flops(plain, batch)
        self._data_time = 0.0
        self._window_start = time.perf_counter()

    def _next_batch(self, sources: list[dict[str, Any]]) -> AnyBatch:
        start = time.perf_counter()
        batch = next(self.batches)
        self._data_time += time.perf_counter() - start
        if isinstance(self._plain, RMAE) and not isinstance(batch, Batch):
            batch = Batch.of(batch)  # from a mapper that makes no batches
        facts = batch.facts if isinstance(batch, Batch) else batch
        self._images += len(facts)
        if self.skip_counter is not None:
            self.skip_counter.add(facts)
        keys = ("file_name", "image_id", "mask_seed")
        sources += [{k: of_image[k] for k in keys if k in of_image} for of_image in facts]
        return batch

    def _forward_backward(
        self, batch: AnyBatch, sync: bool
    ) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        """Losses, and additional scalars that the model reports."""
        scalars: Mapping[str, Tensor] = {}
        with nullcontext() if self.grad_accum == 1 else gradient_sync(self.model, sync):
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                if isinstance(self._plain, RMAE):
                    done = self.iter / self.max_iter
                    losses, scalars, _ = self.model(batch, progress=done)
                else:
                    losses = self.model(batch)
            loss = sum(losses.values()) / self.grad_accum
            if self.grad_scaler.is_enabled():
                # GradScaler itself skips an update if gradients are not finite; so in and after a bad step
                # they are made so, until the host stops the run. A factor does that; torch.where would not:
                # its gradient is 0, and momentum would go on.
                sound = (self._bad_iter < 0) & torch.isfinite(loss.detach())
                loss = loss * torch.where(sound, 1.0, torch.nan)
            self.grad_scaler.scale(loss).backward()
        return losses, scalars

    def _update(self, losses: dict[str, Tensor]) -> None:
        self.grad_scaler.unscale_(self.optimizer)
        limit = self.clip_grad if self.clip_grad > 0 else float("inf")
        norm = self._clip(self._params, limit)
        losses["grad_norm"] = norm
        bad = ~torch.isfinite(losses["total_loss"])
        if not self.grad_scaler.is_enabled():  # scaled fp16 gradients overflow, by design
            bad = bad | ~torch.isfinite(norm)
        if comm.get_world_size() > 1:
            flag = bad.to(torch.int32)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            bad = flag > 0
        self._bad_iter = torch.where((self._bad_iter < 0) & bad, self.iter, self._bad_iter)
        if self.grad_scaler.is_enabled():
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        elif getattr(self.optimizer, "_step_supports_amp_scaling", False):
            # The fused kernels' own switch: they change nothing if found_inf is 1.
            setattr(self.optimizer, "found_inf", (self._bad_iter >= 0).float())  # noqa: B010
            self.optimizer.step()
        elif self._bad_iter.item() < 0:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def check_finite(self) -> None:
        """Wait for the device and stop the run on all ranks after a non-finite loss or gradient.

        Raises:
            UserError: names the iteration and the file that lists the images of its batch.
        """
        bad_iter = int(self._bad_iter.item())
        if bad_iter < 0:
            return
        path = os.path.join(self.output_dir, f"nonfinite_batch_rank{comm.get_rank()}.json")
        images = [sources for iteration, sources in self._recent if iteration == bad_iter]
        with open(path, "w") as file:
            json.dump(
                {"iteration": bad_iter, "images": images[0] if images else []}, file, indent=1
            )
        comm.synchronize()  # the first rank to fail ends the others, which must write theirs first
        raise UserError(
            f"loss or gradient not finite at iteration {bad_iter}. The weights are those before that step, "
            f"and no later checkpoint was written; the batch's images are listed in {path}. Usual causes: "
            "a learning rate meant for a larger batch (see the base and actual rate above), fp16 (try "
            "train.precision=bf16), no clipping (try train.clip_grad=1.0). Continue with --resume"
        )

    def _collect(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1

    def _log(self) -> None:
        """Write the means since the last call to Detectron2's event storage; one device sync."""
        means = torch.stack(list(self._sums.values())) / self._steps
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(means)
            means = means / comm.get_world_size()
        seconds = time.perf_counter() - self._window_start
        scalars = dict(zip(self._sums, means.tolist(), strict=True))
        scalars["data_time"] = self._data_time / self._steps
        scalars["data_wait"] = self._data_time / seconds
        scalars["images_per_second"] = self._images * comm.get_world_size() / seconds
        scalars["memory_mib"] = peak_memory(self.device) / 2**20
        if self.peak is not None and self._flops_per_image is not None:
            scalars["mfu"] = self._flops_per_image * self._images / seconds / self.peak.flops
        if self.skip_counter is not None:
            self.skip_counter.check()
            scalars["skipped_images"] = self.skip_counter.count
        # These are already means: a median over a window would hide steps, and restart at each resume.
        self.storage.put_scalars(**scalars, cur_iter=self.iter, smoothing_hint=False)
        self._sums, self._steps, self._images, self._data_time = {}, 0, 0, 0.0
        self._window_start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Iteration, optimizer and loss scale: everything a step depends on besides the weights."""
        return {
            "iteration": self.iter,
            "optimizer": self.optimizer.state_dict(),
            "grad_scaler": self.grad_scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore moments and loss scale. Hyper-parameters are taken from the config, even if changed."""
        configured = [
            {k: v for k, v in group.items() if k != "params"}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(optimizer_as_sharded(state["optimizer"], self._params))
        for group, own in zip(self.optimizer.param_groups, configured, strict=True):
            group.update(own)
        self.grad_scaler.load_state_dict(state["grad_scaler"])
        self.iter = state["iteration"]


def peak_memory(device: torch.device) -> int:
    """Peak memory held by this process so far, in bytes: of the GPU, or of the machine.

    0 on Windows, where Python cannot query it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seed_step(seed: int, iteration: int, part: int) -> None:
    """Seed Python, NumPy and torch, so that no step depends on history; `part` numbers micro-batches."""
    state = np.random.SeedSequence([seed, iteration, part]).generate_state(2)
    random.seed(int(state[0]))
    np.random.seed(int(state[0]))
    torch.manual_seed(int(state[1]))
