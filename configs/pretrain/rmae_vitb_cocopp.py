"""R-MAE ViT-B/16 on COCO++ = train2017 + unlabeled2017, 241,690 images.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vitb_cocopp.py --num-gpus 8
Batch, GPUs: as rmae_vitb.py.
Schedule:    the same number of epochs as on train2017: 4000 = 236,026 updates * 4096 images / 241,690 images.
             The published code keeps its 144,000 updates here, 2,440 epochs (train.max_iter=144000).
Published:   R-MAE table 3 | COCO++, R-MAE | 52.1 box AP (second-hand)
Measured:    not run.
"""

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vitb_cocopp"
train.max_iter = 236_026
dataloader.train.dataset.names = ("coco_2017_train", "coco_2017_unlabeled")
