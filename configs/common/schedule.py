"""Half-cosine decay after a linear warm-up from 0, all relative to train.max_iter."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_factor=0.0,
    # 12,000 of 144,000 updates in the published code.
    warmup_length=1 / 12,
    # Without it the cosine would begin during the warm-up, up to 4.7 % off MAE's schedule.
    rescale_interval=True,
)
