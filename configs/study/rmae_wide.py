"""R-MAE with a region branch as wide as the encoder: the shipped weights, rmae-d2://rmae_scenes.

Command:     rmae-d2 scenes --output datasets/study/scenes --num-train 8000 --num-val 500 --seed 20
             DETECTRON2_DATASETS=datasets/study rmae-d2 train --config-file configs/study/rmae_wide.py
Batch:       as rmae.py.
Mask ratio:  the region branch's is sampled per step, so that it also learns from a single patch.
Regions:     four per image, half of the paper's, so the same number per second from twice as many images.
"""

from .rmae import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/rmae_wide"
train.max_iter = 5000
train.eval_period = 1000
train.seed = 20

model.region_branch.mask_ratio = (0.5, 0.98)
for part in ("encoder", "decoder"):
    model.region_branch[f"{part}_dim"] = 192
    model.region_branch[f"{part}_depth"] = 2
    model.region_branch[f"{part}_num_heads"] = 3
dataloader.train.mapper.num_regions = 4
