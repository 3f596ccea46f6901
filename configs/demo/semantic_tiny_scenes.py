"""UPerNet on the scenes' 12 objects and 5 backgrounds, small enough for a CPU, from the demo's pre-training.

Command:     rmae-d2 train --config-file configs/demo/semantic_tiny_scenes.py
             train.init_checkpoint=output/demo/rmae_tiny_scenes/model_final.pth is the default; from scratch:
             train.init_checkpoint= train.output_dir=output/demo/semantic_scratch
Plot:        rmae-d2 visualize metrics output/demo/semantic_scratch output/demo/semantic_tiny_scenes
             --metric sem_seg/mIoU --labels "random weights" R-MAE --output miou.png
Batch:       8 images per step, 300 steps = 2.7 epochs of 900 images.
Measured:    mIoU 14.6 from a demo R-MAE of 560 steps, 12.5 from random weights; after 50, 100 ... 250 steps
             5.2 9.2 12.3 13.3 13.5 and 4.7 7.1 8.3 10.5 11.0. One seed. Nearly all of it comes from the
             backgrounds: of the objects, only fish and house are found at all. 5 to 6 minutes of a CPU core.
"""

from .semantic_tiny_ade20k import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/demo/semantic_tiny_scenes"
train.init_checkpoint = "output/demo/rmae_tiny_scenes/model_final.pth"
train.max_iter = 300
train.eval_period = 50

model.sem_seg_head.num_classes = 17
optimizer.params.lr_decay_rate = 0.9

dataloader.train.dataset.names = "scenes_train_semantic"
dataloader.test.dataset.names = "scenes_val_semantic"
# Scenes are small: 0.75 to 1.5 times the test size of 128.
dataloader.train.mapper.augmentations[0].short_edge_length = (96, 192)
