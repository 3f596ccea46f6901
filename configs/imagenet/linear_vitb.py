"""Linear probe of a ViT-B/16 on ImageNet-1k: the encoder is frozen.

Command:     rmae-d2 train --config-file configs/imagenet/linear_vitb.py --num-gpus 8
             train.init_checkpoint=WEIGHTS (ours, MAE's, timm's or Hugging Face's)
Batch, GPUs: 16384 images per step, 2048 per GPU on 8; on smaller GPUs add train.grad_accum=N. The learning
             rate follows the batch, base 0.1 per 256 images, so 6.4; each process normalises over its own
             micro-batch.
Schedule:    90 epochs = 7,038 updates * 16384 images / 1,281,167 images; warm-up 10 epochs, half cosine.
Published:   MAE table 12 | linear probe, ViT-B | 68.0 top-1 (published); 67.8 from the released weights and
               code
             R-MAE table 6 | linear probe, ViT-B | 60.6 top-1, MAE 68.0 (second-hand)
Note:        R-MAE's published explanation: regions make features more local.
Differs:     the published code drops each epoch's last images, 7,020 updates.
Own images:  dataloader.train.dataset.root=/photos; see configs/common/data/imagenet.py.
             With small batches the scaling rule gives a rate at which LARS hardly moves (a step is a
             thousandth of rate * the weights' norm): start with optimizer.base_lr=1600/batch, a rate of 6.25
             (not tuned).
Measured:    not run here: ImageNet was not available.
"""

from detectron2.config import LazyCall as L

from rmae_d2.solver.lars import lars_params, scaled_lars

from ..common.data.imagenet import dataloader
from ..common.models.classifier_vitb import model
from ..common.schedule import lr_multiplier
from ..common.train import train

train.output_dir = "output/linear_vitb"
train.init_checkpoint = "output/rmae_vitb_imagenet/model_final.pth"
train.max_iter = 7_038
train.precision = "bf16"
train.eval_period = 782
# The head's running means: those of the first process are used.
train.ddp.broadcast_buffers = True
lr_multiplier.warmup_length = 10 / 90

dataloader.train.total_batch_size = 16384
optimizer = L(scaled_lars)(
    params=L(lars_params)(),
    base_lr=0.1,
    batch_size="${dataloader.train.total_batch_size}",
    momentum=0.9,
    weight_decay=0.0,
    trust_coefficient=0.001,
)
