"""R-MAE small enough for a CPU and long enough to learn: the study's model, and that of the shipped weights.

Batch:       64 views of 96 pixels a step, 8 x 8 patches of 12.
"""

from detectron2.config import LazyCall as L

from rmae_d2.regions import InstanceSource

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/rmae"
train.max_iter = 1500
train.precision = "fp32"
train.log_period = 50
train.vis_period = 0
train.checkpointer.period = 500
train.eval_period = 1500

model.backbone.net.img_size = 96
model.backbone.net.patch_size = 12
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3
model.pixel_decoder.dim = 96
model.pixel_decoder.depth = 1
model.pixel_decoder.num_heads = 3
model.region_branch.mask_ratio = (0.5, 0.98)
model.region_branch.encoder_dim = 192
model.region_branch.encoder_depth = 2
model.region_branch.encoder_num_heads = 3
model.region_branch.decoder_dim = 192
model.region_branch.decoder_depth = 2
model.region_branch.decoder_num_heads = 3

optimizer.base_lr = 4e-3
dataloader.train.dataset.names = ("scenes_train",)
# Half of the paper's: as many regions a second, of twice the images.
dataloader.train.mapper.num_regions = 4
dataloader.train.total_batch_size = 64
dataloader.train.num_workers = 1
dataloader.test.dataset.names = ("scenes_val",)
dataloader.test.num_workers = 0
# Regions that no training sees, but where a method names them as its source.
dataloader.test.also = [L(InstanceSource)()]
