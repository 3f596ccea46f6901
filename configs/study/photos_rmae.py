"""R-MAE of the study on photographs: continues a public ViT-S/14.

Command:     as photos.py; on its own with train.init_checkpoint=hf://facebook/dinov2-small
Batch:       16 views of 224 pixels per step, 16 x 16 patches of 14; 60 steps = 20 epochs of 48 photos.
Sizes:       decoders and region branch as in rmae.py, the pixel decoder twice as wide and deep: they start
             from random weights and must be affordable on a CPU.
Measured:    docs/study/photos.md.
"""

from detectron2.config import LazyCall as L

from rmae_d2.regions import InstanceSource

from ..pretrain.rmae_vits import dataloader, lr_multiplier, model, optimizer, train
from .rmae import model as small

train.output_dir = "output/study_photos/rmae"
train.max_iter = 60
train.precision = "fp32"
train.log_period = 10
train.vis_period = 0
train.checkpointer.period = 60
train.checkpointer.max_to_keep = 1
train.eval_period = 60

model.backbone.net.patch_size = 14
model.pixel_decoder.dim = 192
model.pixel_decoder.depth = 2
model.pixel_decoder.num_heads = 3
model.region_branch = small.region_branch

# 1.25e-5 for 16 images: the encoder forgets what it knew, and even more at 4e-3.
optimizer.base_lr = 2e-4
dataloader.train.dataset.names = ("coco_2017_train",)
dataloader.train.total_batch_size = 16
dataloader.train.num_workers = 1
dataloader.test.num_workers = 0
coco = "${oc.env:DETECTRON2_DATASETS,datasets}/coco"
# Only the labelled ones: regions that training never sees.
dataloader.test.dataset.root = f"{coco}/annotations/instances_val2017.json"
dataloader.test.dataset.image_root = f"{coco}/val2017"
dataloader.test.also = [L(InstanceSource)(json_file=dataloader.test.dataset.root)]
del small
