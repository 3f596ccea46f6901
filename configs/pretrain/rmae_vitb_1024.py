"""R-MAE ViT-B/16 at 1024 pixels, ViTDet's size, on COCO train2017: 4096 patches, 1024 of them visible.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vitb_1024.py --num-gpus 8
             train.init_checkpoint=output/rmae_vitb/model_final.pth
Batch, GPUs: 256 images per step, 32 per GPU on 8. With activation checkpointing an image keeps 368 MiB in
             fp32 instead of 1,873 (docs/ablations.md), a GPU 12 GiB.
Schedule:    50 epochs = 23,103 updates * 256 images / 118,287 images, starting from weights trained at 224
             pixels: position tables are resized to the grid.
Published:   nothing. COCO's photos are 640 pixels wide, so most crops are enlarged; it is meant for larger
             photos (dataloader.train.dataset.root=DIR).
Measured:    not run.
"""

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vitb_1024"
train.max_iter = 23_103
train.activation_checkpointing = True
model.backbone.net.img_size = 1024
dataloader.train.total_batch_size = 256
