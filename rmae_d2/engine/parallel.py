"""Train one model in several processes: each has a copy of it (DDP) or a shard of it (FSDP2).

Everything that differs between the two is here: wrapping, accumulation, gradient norms, full weights.
"""

import atexit
import copy
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import create_ddp_model
from detectron2.modeling.backbone.vit import Block as DetectionBlock
from detectron2.utils import comm
from omegaconf import DictConfig
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from ..modeling.region_branch import CrossAttentionBlock

logger = logging.getLogger(__name__)

PARALLEL = ("ddp", "fsdp")
BLOCKS = (Block, DetectionBlock, CrossAttentionBlock)
#: A block with a smaller share of the weights is gathered with the rest of the model: every gathering takes
#: some time, however little there is to gather.
SMALLEST_SHARE = 1 / 500


@dataclass
class _Unsharded:
    """An FSDP model's attribute ``unsharded``: a copy from before sharding, without weights."""

    model: nn.Module


def parallelize(model: nn.Module, train: DictConfig, device: torch.device) -> nn.Module:
    """Prepare a model for training in all processes; its optimizer must be built afterwards.

    Weights and buffers are taken from the main process. ``fsdp`` shards transformer blocks one by one and
    the rest together, in place, and also works in a single process; with ``precision=bf16``, blocks are
    gathered in bf16, while shards, gradient reductions and the optimizer's state are fp32.

    Args:
        model: on its device.
        train: a config node with ``parallel``, ``ddp`` (arguments of DDP) and ``precision``.
        device: of this process.

    Raises:
        UserError: the kind is unknown, or FSDP does not support the settings.
    """
    kind = train.get("parallel", "ddp")
    if kind not in PARALLEL:
        raise UserError(f"train.parallel={kind!r}: one of {', '.join(PARALLEL)}")
    if kind == "fsdp":
        return _shard(model, train.precision, device)
    options = dict(train.ddp)
    # Not the local rank, as in Detectron2: Slurm may show each process only its own GPU.
    options["device_ids"] = None if device.type == "cpu" else [device.index]
    # Concerns only one-channel convolutions, whose two layouts are the same memory.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return create_ddp_model(model, **options)


def _shard(model: nn.Module, precision: str, device: torch.device) -> nn.Module:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if precision == "fp16":
        raise UserError(
            "train.parallel=fsdp does not scale losses, which fp16 needs: set train.precision=bf16, or leave "
            "it at train.parallel=ddp"
        )
    _ensure_process_group(device)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, src=0)
    model.unsharded = _Unsharded(_without_weights(model))  # type: ignore[assignment]
    # Autocast decides what is computed in bf16, as in DDP; blocks are only gathered in it. Not on a CPU,
    # whose layer norm does not accept bf16 weights for fp32 activations.
    gathered = torch.bfloat16 if precision == "bf16" and device.type == "cuda" else None
    policy = MixedPrecisionPolicy(
        param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    units = _units(model)
    for unit in units:
        fully_shard(unit, mp_policy=policy)
    fully_shard(model, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    logger.info(
        "weights, gradients and optimizer state sharded over %d processes (FSDP), in %d blocks and the rest",
        dist.get_world_size(),
        len(units),
    )
    return model


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that needs whole matrices if the model is sharded.

    Raises:
        UserError: for LARS and Muon.
    """
    name = type(optimizer).__name__
    if is_sharded(model) and name in ("Lars", "Muon"):
        raise UserError(
            f"train.parallel=fsdp: {name} needs whole matrices, of which each process has a part: "
            "take train.parallel=ddp, or AdamW"
        )


def _ensure_process_group(device: torch.device) -> None:
    """Create the group of one process that FSDP needs even in a run that is alone."""
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    comm.create_local_process_group(1)
    atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _units(model: nn.Module) -> list[nn.Module]:
    smallest = SMALLEST_SHARE * _size(model)
    return [m for m in model.modules() if isinstance(m, BLOCKS) and _size(m) >= smallest]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy whose parameters take no memory."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DDP; an FSDP model is returned as it is, with DTensors for parameters."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def is_sharded(model: nn.Module) -> bool:
    """Whether a model is sharded by FSDP."""
    return hasattr(unwrap(model), "unsharded")


@contextmanager
def whole(model: nn.Module, write: bool = False) -> Iterator[nn.Module]:
    """Provide a plain model with all weights, to evaluate, inspect, load or export; entered by all processes.

    For an FSDP model it is a copy, gathered while the context lasts: inside, processes do not wait for each
    other and may do different things. Otherwise it is the model itself.

    Args:
        model: as returned by `parallelize`.
        write: whether weights changed inside are copied back; they must be the same in all processes.
    """
    model = unwrap(model)
    if not is_sharded(model):
        yield model
        return
    plain: nn.Module = model.unsharded.model  # type: ignore[union-attr, assignment]
    empty = plain.state_dict()
    own = model.state_dict()
    plain.load_state_dict({name: _gathered(value) for name, value in own.items()}, assign=True)
    plain.train(model.training)
    try:
        yield plain
        if write:
            model.load_state_dict(as_sharded(plain.state_dict(), own))
    finally:
        plain.load_state_dict(empty, assign=True)


def gradient_sync(model: nn.Module, sync: bool) -> AbstractContextManager[Any]:
    """Context for a forward and backward pass: whether gradients are reduced over processes in it.

    If not, they accumulate in each process until a pass that reduces them.
    """
    if is_sharded(model):
        model.set_requires_gradient_sync(sync)  # type: ignore[operator]
    elif isinstance(model, DistributedDataParallel) and not sync:
        return model.no_sync()
    return nullcontext()


def clip_gradients(params: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients so that their total norm is at most ``limit``, without waiting for the device.

    Returns:
        the norm before scaling, over all shards, as a plain 0-d tensor, the same in all processes.
    """
    params = list(params)
    mesh = next((mesh_of_tensor(p) for p in params), None)
    if mesh is None:
        return nn.utils.clip_grad_norm_(params, limit)
    # DTensor arithmetic gives the same result parameter by parameter, but much more slowly.
    grads = [grad for grad in (local(p.grad) for p in params if p.grad is not None) if grad.numel()]
    square = torch.zeros((), device=mesh.device_type)
    if grads:
        square = torch.stack(torch._foreach_norm(grads)).float().square().sum()
    dist.all_reduce(square, group=mesh.get_group())
    norm = square.sqrt()
    if grads:
        torch._foreach_mul_(grads, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def local(tensor: Any) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; other tensors are returned as they are."""
    if mesh_of_tensor(tensor) is None:
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def mesh_of(model: nn.Module) -> Any:
    """The device mesh over which a model is sharded, or None."""
    if not is_sharded(model):
        return None
    return next(mesh_of_tensor(p) for p in unwrap(model).parameters())


def mesh_of_tensor(tensor: Any) -> Any:
    """The device mesh of a DTensor; None for other tensors."""
    return getattr(tensor, "device_mesh", None)


def gathered_on_main(tree: Any) -> Any:
    """Replace shards in nested dicts by whole tensors in host memory; called by all processes together.

    Args:
        tree: the same keys in every process.

    Returns:
        everything on the main process; elsewhere, the sharded tensors' values are None.
    """
    if isinstance(tree, dict):
        return {key: gathered_on_main(value) for key, value in tree.items()}
    if mesh_of_tensor(tree) is None:
        return tree
    value = _gathered(tree)
    return value.cpu() if comm.is_main_process() else None


def _gathered(tensor: Any) -> Any:
    """The whole tensor, as a copy."""
    mesh = mesh_of_tensor(tensor)
    with torch.no_grad():
        full = tensor if mesh is None else tensor.full_tensor()
        return full.clone() if mesh is None or mesh.size() == 1 else full


def as_sharded(state: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Shard tensors like those of the same name; nothing is communicated.

    Args:
        state: whole tensors, the same in every process. Anything already sharded, not a tensor or of another
            shape is left as it is.
        like: tensors or DTensors, by name.
    """
    return {name: _as_sharded(value, like.get(name)) for name, value in state.items()}


def _as_sharded(value: Any, like: Any) -> Any:
    is_whole = isinstance(value, Tensor) and mesh_of_tensor(value) is None
    if mesh_of_tensor(like) is None or not is_whole or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor

    mesh = like.device_mesh
    parts = value.detach().chunk(mesh.size(), dim=0)
    rank = mesh.get_local_rank()
    mine = parts[rank] if rank < len(parts) else value.detach()[:0]
    return DTensor.from_local(
        mine.to(mesh.device_type, copy=True).contiguous(),
        mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def optimizer_as_sharded(state: dict[str, Any], params: list[Any]) -> dict[str, Any]:
    """An optimizer's state dict with moments sharded like their parameters.

    Args:
        state: from ``optimizer.state_dict()``.
        params: the optimizer's parameters, in the order of its groups.
    """
    moments = {
        index: {name: _as_sharded(value, params[index]) for name, value in values.items()}
        for index, values in state["state"].items()
        if index < len(params)
    }
    return {**state, "state": {**state["state"], **moments}}
