"""Linear probe of a ViT-B/16 with 1 % of ImageNet-1k's labels: the encoder is frozen.

Command:     rmae-d2 train --config-file configs/imagenet/linear_vitb_1pct.py
             train.init_checkpoint=WEIGHTS
Data:        as finetune_vitb_1pct.py.
Batch, GPUs: 160 images per step on one GPU: linear_vitb.py's 16384 scaled by the share of labels.
Schedule:    90 epochs = 7,207 updates * 160 images / 12,811 images; warm-up 10 epochs.
Published:   nothing known: no linear probe of MAE, R-MAE or AutoMAE with few labels.
Differs:     from linear_vitb.py in the batch; epochs, updates and rate (6.4) are the same. By the scaling
             rule the rate would be 0.06, at which LARS hardly moves. Not tuned.
Measured:    not run here: ImageNet was not available.
"""

from .linear_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/linear_vitb_1pct"
train.max_iter = 7_207
dataloader.train.dataset.fraction = 0.01
dataloader.train.total_batch_size = 160
optimizer.base_lr = 6.4 * 256 / 160
