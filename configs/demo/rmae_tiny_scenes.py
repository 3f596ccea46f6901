"""A small R-MAE on the rendered scenes, for a CPU: what `make demo` runs.

Command:     rmae-d2 scenes --output datasets/scenes
             rmae-d2 train --config-file configs/demo/rmae_tiny_scenes.py
Batch:       32 images per step, 450 steps = 16 epochs of 900 images.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/demo/rmae_tiny_scenes"
train.max_iter = 450
train.precision = "fp32"
train.log_period = 10
train.vis_period = 150
train.checkpointer.period = 150
train.eval_period = 450

model.backbone.net.img_size = 160
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3
model.pixel_decoder.dim = 128
model.pixel_decoder.depth = 2
model.pixel_decoder.num_heads = 4
model.region_branch.encoder_dim = 64
model.region_branch.encoder_num_heads = 4
model.region_branch.decoder_dim = 64
model.region_branch.decoder_num_heads = 4

# A short run needs a higher rate than 4000 epochs.
optimizer.base_lr = 1.2e-2
dataloader.train.dataset.names = ("scenes_train",)
dataloader.train.total_batch_size = 32
dataloader.train.num_workers = 2
dataloader.test.dataset.names = ("scenes_val",)
dataloader.test.num_workers = 2
