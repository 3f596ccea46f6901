"""ViTDet-B, Mask R-CNN on COCO from random weights, 300 epochs: the baseline for pre-training.

Command:     rmae-d2 train --num-gpus 8 --config-file configs/coco/mask_rcnn_vitdet_b_scratch_300ep.py
Batch, GPUs: as mask_rcnn_vitdet_b_100ep.py.
Schedule:    300 epochs = 553,125 steps * 64 images / 118,000 images; rate / 10 at 8/9 and 26/27 of the run.
Published:   ViTDet table 4 | Mask R-CNN, ViT-B, random weights | 48.1 / 42.6 (published)
             R-MAE text | from scratch | not found; RAE is significantly better (second-hand, v1)
Reading:     rate, weight decay and epochs are the paper's for random weights (appendix A.2), without relative
             positions as in its table 4. Its drop path and layer-wise rate decay for random weights could not
             be looked up: drop path is that from MAE, and all layers have one rate.
Measured:    not run here.
"""

from .mask_rcnn_vitdet_b_100ep import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/coco/mask_rcnn_vitdet_b_scratch_300ep"
train.init_checkpoint = ""
train.max_iter = 553_125
lr_multiplier.warmup_length = 250 / 553_125
model.backbone.net.use_rel_pos = False
optimizer.lr = 1.6e-4
optimizer.weight_decay = 0.2
optimizer.params.lr_decay_rate = 1.0
