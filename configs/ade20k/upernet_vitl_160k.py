"""UPerNet, ViT-L/16, on ADE20K at 512x512, 160,000 iterations.

Command:     rmae-d2 train --config-file configs/ade20k/upernet_vitl_160k.py --num-gpus 8
             train.init_checkpoint=PRETRAINED
Batch, GPUs: as upernet_vitb_160k.py; train.grad_accum=N or train.activation_checkpointing=true if 2 images
             per GPU do not fit.
Published:   MAE table 5 | ADE20K, ViT-L | 53.6 mIoU (published)
Note:        the learning rate and layer decay for L are not published.
Differs:     layer decay 0.75 and drop path 0.2 are those of MAE's own ImageNet fine-tuning of L, where B has
             0.65 and 0.1; taps at the same depths as BEiT-L. Otherwise as B.
Measured:    not run here; no time or memory known.
"""

from .upernet_vitb_160k import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/upernet_vitl_160k"
model.backbone.net.embed_dim = 1024
model.backbone.net.depth = 24
model.backbone.net.num_heads = 16
model.backbone.net.drop_path_rate = 0.2
model.backbone.net.out_indices = [7, 11, 15, 23]
model.backbone.in_features = ["block7", "block11", "block15", "block23"]
optimizer.params.lr_decay_rate = 0.75
