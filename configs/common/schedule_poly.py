"""Linear decay to 0 after a warm-up of 1,500 of 160,000 iterations.

train.max_iter scales both.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(PolynomialDecayParamScheduler)(base_value=1.0, power=1.0),
    warmup_factor=1e-6,
    warmup_length=1500 / 160_000,
    # The line begins where the warm-up ends.
    rescale_interval=True,
)
