"""ViTDet's schedule: the rate falls tenfold at 8/9 and again at 26/27 of the run, after a short warm-up.

Iteration numbers are those of the published 184,375 (COCO, 100 epochs); train.max_iter scales them all.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[163889, 177546], num_updates=184375
    ),
    warmup_factor=0.001,
    warmup_length=250 / 184375,
)
