"""R-MAE of the study: small enough for a CPU core, long enough to learn something.

Command:     rmae-d2 study configs/study/scenes.py
             or on its own: rmae-d2 scenes --output datasets/study/scenes --num-train 8000 --num-val 500
             --seed 20; DETECTRON2_DATASETS=datasets/study rmae-d2 train --config-file configs/study/rmae.py
Batch:       64 views of 96 pixels per step, 8 x 8 patches of 12; 1500 steps = 96,000 views.
Sizes:       in proportion to the paper's: the encoder has a quarter of ViT-B's width and half its depth, the
             region branch a third of the encoder's width (in the paper a sixth).
Measured:    docs/study.md.
"""

from detectron2.config import LazyCall as L

from rmae_d2.regions import InstanceSource

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/rmae"
train.max_iter = 1500
train.precision = "fp32"
train.log_period = 50
train.vis_period = 0
train.checkpointer.period = 250
train.checkpointer.max_to_keep = 1
train.eval_period = 500

model.backbone.net.img_size = 96
model.backbone.net.patch_size = 12
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3
model.pixel_decoder.dim = 96
model.pixel_decoder.depth = 1
model.pixel_decoder.num_heads = 3
model.region_branch.encoder_dim = 64
model.region_branch.encoder_num_heads = 4
model.region_branch.decoder_dim = 64
model.region_branch.decoder_num_heads = 4

# A short run needs a higher rate than 4000 epochs.
optimizer.base_lr = 4e-3
dataloader.train.dataset.names = ("scenes_train",)
dataloader.train.total_batch_size = 64
dataloader.train.num_workers = 1
dataloader.test.dataset.names = ("scenes_val",)
dataloader.test.num_workers = 0
labels = "${oc.env:DETECTRON2_DATASETS,datasets}/scenes/annotations"
# Regions that training never sees, unless a config names them as its source.
dataloader.test.also = [L(InstanceSource)(json_file=f"{labels}/instances_val.json")]
