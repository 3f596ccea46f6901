"""Valid ranges of numbers in configs and on command lines. Imports nothing heavy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class Range:
    """Finite numbers from ``least`` to ``most``; an open end is excluded."""

    least: float = -math.inf
    most: float = math.inf
    open_below: bool = False
    open_above: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.least if self.open_below else value >= self.least
        below = value < self.most if self.open_above else value <= self.most
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        parts = []
        if self.least > -math.inf:
            parts.append(
                f"more than {self.least:g}" if self.open_below else f"{self.least:g} or more"
            )
        if self.most < math.inf:
            parts.append(
                f"less than {self.most:g}" if self.open_above else f"at most {self.most:g}"
            )
        return " and ".join(parts) or "a finite number"


COUNT = Range(1)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, open_below=True)
SHARE = Range(0, 1)
PROPER_SHARE = Range(0, 1, open_below=True, open_above=True)
BELOW_ONE = Range(0, 1, open_above=True)
UP_TO_ONE = Range(0, 1, open_below=True)

#: Patterns for the end of a config key; the first match wins. Values that only their own class can check,
#: such as a layer counted from the end, are not listed here.
_OF_KEYS = {
    COUNT: """
        train.max_iter train.grad_accum train.log_period
        total_batch_size batch_size batch_size_per_image grad_accum prefetch_factor num_regions
        img_size pretrain_img_size patch_size in_chans embed_dim num_heads net.depth dim encoder_dim
        decoder_dim encoder_num_heads decoder_num_heads num_classes out_channels channels aux_channels
        bank_per_class query_per_class per_class evaluator.k max_dets_per_image test_topk_per_image
        pre_nms_topk post_nms_topk short_edge_length max_size windows_per_batch num_updates""",
    NOT_NEGATIVE: """
        train.seed train.device_tflops train.clip_grad train.vis_period train.eval_period
        train.patience
        checkpointer.period checkpointer.max_to_keep knn.period num_workers seed dataset.fraction_seed
        cache_bytes read_ahead
        depth neck_depth encoder_depth decoder_depth window_size window_block_indexes out_indices
        lr base_lr lr_factor weight_decay weight_decay_norm weight_decay_bias trust_coefficient eps
        region_weight pixel_weight background_weight loss_weight aux_loss_weight generator_weight
        mixup_alpha cutmix_alpha repeat_threshold milestones fed_loss_num_classes""",
    POSITIVE: """
        temperature mlp_ratio pixel_std scale_factors augmentations.*.ratio augmentations.*.scale
        augmentations.*.min_scale augmentations.*.max_scale augmentations.*.size""",
    SHARE: """
        train.max_skipped_fraction warmup_length warmup_factor label_smoothing random_erasing
        positive_fraction nms_thresh test_score_thresh augmentations.*.prob pixels.share
        region_branch.mask_ratio region_mask_ratio""",
    PROPER_SHARE: "mask_ratio",
    BELOW_ONE: "ema.decay betas momentum dropout drop_path_rate drop_rate",
    UP_TO_ONE: "dataset.fraction lr_decay_rate augmentations.*.crop_share augmentations.*.max_share",
}
_PATTERNS = {f"*.{key}": range_ for range_, keys in _OF_KEYS.items() for key in keys.split()}


def check_ranges(content: Any) -> None:
    """Check all numbers in a config's plain dicts and lists.

    Raises:
        UserError: with one line per number that is out of range.
    """
    if errors := [
        f"{name}={value}: {range_}"
        for name, value, range_ in _ranged(content)
        if value not in range_
    ]:
        raise UserError("\n".join(errors))


def range_of(name: str) -> Range | None:
    """The range of the number, or of the numbers in the list, at a dotted name."""
    return next((r for pattern, r in _PATTERNS.items() if fnmatchcase(f".{name}", pattern)), None)


def _ranged(content: Any, name: str = "") -> Iterator[tuple[str, float, Range]]:
    """Yield name, value and range of every number that has one."""
    if isinstance(content, dict):
        for key, child in content.items():
            yield from _ranged(child, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for i, child in enumerate(content):
            # Numbers in a list belong to the list's name; its parts have names of their own.
            yield from _ranged(child, f"{name}.{i}" if isinstance(child, dict) else name)
    elif type(content) in (int, float) and (range_ := range_of(name)) is not None:
        yield name, content, range_
