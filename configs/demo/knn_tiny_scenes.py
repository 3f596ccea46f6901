"""k-NN accuracy of the demo's encoder on the scenes' single objects, without training.

Command:     rmae-d2 scenes --output datasets/scenes --crops datasets/scenes_crops
             rmae-d2 train --config-file configs/demo/knn_tiny_scenes.py --eval-only
             train.init_checkpoint=output/demo/rmae_tiny_scenes/model_final.pth is the default; for random
             weights: train.init_checkpoint=output/demo/linear_scratch/model_final.pth, from
             linear_tiny_scenes.py with random weights, which leaves the encoder unchanged.
Votes:       of the 20 nearest training crops. dataloader.test.dataset.query_split=null compares each training
             crop with the others instead: more images, so less noise.
Measured:    top-1 of 253 validation crops (standard error 2.8): 26.9 R-MAE, 28.1 MAE, 27.3 random weights; of
             2,513 training crops compared with the others (0.9): 23.7, 22.9, 27.9. 560 steps of demo
             pre-training do not help here. Half a minute of a CPU core each.
"""

from ..imagenet.knn_vitb import dataloader, lr_multiplier, model, optimizer
from .linear_tiny_scenes import dataloader as crops
from .linear_tiny_scenes import model as classifier
from .linear_tiny_scenes import train

train.output_dir = "output/demo/knn_tiny_scenes"
model.backbone = classifier.backbone
model.pool = classifier.pool
dataloader.train.dataset.root = crops.train.dataset.root
dataloader.test.dataset.root = "${dataloader.train.dataset.root}"
dataloader.test.mapper.augmentations[0].crop_share = 1.0
dataloader.test.num_workers = 2
# Not parts of this config.
del crops, classifier
