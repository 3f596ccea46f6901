"""Linear probe of a ViT-B/16 with 10 % of ImageNet-1k's labels: the encoder is frozen.

Command:     rmae-d2 train --config-file configs/imagenet/linear_vitb_10pct.py --num-gpus 8
             train.init_checkpoint=WEIGHTS
Data:        as finetune_vitb_10pct.py.
Batch, GPUs: 1600 images per step, 200 per GPU on 8.
Schedule:    90 epochs = 7,207 updates * 1600 images / 128,117 images; warm-up 10 epochs.
Published:   nothing known: no linear probe of MAE, R-MAE or AutoMAE with few labels.
Differs:     as linear_vitb_1pct.py; the scaling rule would give a rate of 0.6.
Measured:    not run here: ImageNet was not available.
"""

from .linear_vitb_1pct import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/linear_vitb_10pct"
dataloader.train.dataset.fraction = 0.1
dataloader.train.total_batch_size = 1600
optimizer.base_lr = 6.4 * 256 / 1600
