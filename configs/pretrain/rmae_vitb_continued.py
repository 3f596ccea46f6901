"""R-MAE ViT-B/16 continued from MAE's or R-MAE's weights, decoders included: 400 epochs of COCO train2017.

Command:     rmae-d2 train --config-file configs/pretrain/rmae_vitb_continued.py --num-gpus 8
             train.init_checkpoint=mae_pretrain_vit_base_full.pth
Batch, GPUs: as rmae_vitb.py.
Weights:     of MAE, of R-MAE's published code, of Hugging Face's ViTMAEForPreTraining or ours. Encoder, pixel
             decoder and region branch are loaded if the file has them (MAE's files without "full" have no
             decoder); the log says what was copied and what is new. The published code's region branch has a
             neck of 8 blocks: model.region_branch.neck_depth=8.
Schedule:    400 epochs = 11,552 updates * 4096 images / 118,287 images, a tenth of rmae_vitb.py.
Published:   nothing.
Measured:    not run.
"""

from .rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/rmae_vitb_continued"
train.max_iter = 11_552
