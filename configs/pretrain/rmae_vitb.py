"""R-MAE ViT-B/16 on COCO train2017, the paper's main recipe.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vitb.py --num-gpus 8
Batch, GPUs: 4096 images per step, 512 per GPU on 8; on fewer or smaller GPUs add train.grad_accum=N, or lower
             dataloader.train.total_batch_size: the learning rate follows, base 1e-4 per 256 images.
Schedule:    4000 epochs = 115,515 updates * 4096 images / 118,287 images; warm-up 1/12 of it.
Regions:     FH at scales 500, 1000, 1500, 8 per image, computed when an image is first used (0.06 s per image
             and core with numba, 0.8 s without) and kept in output/region_cache (about 1.4 GB for COCO). To
             precompute them: rmae-d2 regions --source fh --dataset coco_2017_train --output DIR, then
             dataloader.train.mapper.regions.path=DIR.
Published:   R-MAE table 1c | R-MAE, length (default) | 50.6 (second-hand ×2) / 45.0 (second-hand), 9.8b FLOPs
               (second-hand ×2)
             R-MAE table 1d | R-MAE, FH, three scales (default) | as table 1c
             R-MAE table 1e | pixel to region (default) | as table 1c; the best of the three (second-hand ×2)
Note:        noise of fine-tuning alone: std 0.10 (Detectron2's ViTDet).
Differs:     the published code has base rate 1.5e-4 (optimizer.base_lr=1.5e-4), neck depth 8
             (model.region_branch.neck_depth=8) and 144,000 updates (train.max_iter=144000). It defaults to
             fp32 (train.precision=fp32); this config, and everything in pretrain/ and ablations/, which is
             based on it, uses bf16.
Measured:    not run; no time or memory known.
"""

from ..common.data.pretrain import dataloader
from ..common.models.rmae_vitb import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier
from ..common.train import train

train.output_dir = "output/rmae_vitb"
train.max_iter = 115_515
train.precision = "bf16"
