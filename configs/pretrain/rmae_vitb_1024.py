"""R-MAE ViT-B/16 at 1024 pixels, ViTDet's size, on COCO train2017: 4096 patches, 1024 of them visible.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vitb_1024.py --num-gpus 8
             train.init_checkpoint=output/rmae_vitb/model_final.pth
Batch, GPUs: 256 images per step, 32 per GPU on 8. With activation checkpointing an image keeps 222 MiB in
             fp32 instead of 1,177 (docs/ablations.md), a GPU 7 GiB.
Transfer:    the encoder has ViTDet's windows, of 16 patches per side: fine-tune with
             model.backbone.net.window_size=16 (docs/large_images.md).
Schedule:    50 epochs = 23,103 updates * 256 images / 118,287 images, starting from weights trained at 224
             pixels: position tables are resized to the grid.
Published:   nothing. COCO's photos are 640 pixels wide, so most crops are enlarged; it is meant for larger
             photos (dataloader.train.dataset.root=DIR).
Measured:    not run.
"""

from detectron2.config import LazyCall as L

from rmae_d2.modeling import WindowMasking

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vitb_1024"
train.max_iter = 23_103
train.activation_checkpointing = True
model.backbone.net.img_size = 1024
# ViTDet's blocks; windows that divide the grid of 64 x 64 patches.
model.backbone.net.window_size = 16
model.backbone.net.window_block_indexes = [0, 1, 3, 4, 6, 7, 9, 10]
model.masking = L(WindowMasking)(window_size="${model.backbone.net.window_size}")
# A quarter of the hidden patches is predicted in each step.
model.decode_ratio = 0.25
model.pixel_decoder.hidden_attention = False
dataloader.train.total_batch_size = 256
