"""AdamW as in MAE's pre-training (MAE, table 8), at R-MAE's base rate."""

from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

from rmae_d2.solver import scaled_adamw

optimizer = L(scaled_adamw)(
    # The rate follows the batch: base_lr per 256 images, the linear rule.
    base_lr=1e-4,
    batch_size="${dataloader.train.total_batch_size}",
    betas=(0.9, 0.95),
    weight_decay=0.05,
    # No decay of norms and biases; cls and mask tokens are decayed, as in the published code.
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0, weight_decay_bias=0.0),
)
