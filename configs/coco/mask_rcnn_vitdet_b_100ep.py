"""ViTDet-B, Mask R-CNN on COCO, 100 epochs: the main test of a pre-training.

Command:     rmae-d2 train --num-gpus 8 --config-file configs/coco/mask_rcnn_vitdet_b_100ep.py
             train.init_checkpoint=PRETRAINED, in any format that load_weights reads; default: the result of
             configs/pretrain/rmae_vitb.py. From random weights: train.init_checkpoint=
Batch, GPUs: 64 images per step, published with one per GPU on 64. On 8 GPUs add train.grad_accum=8 for one
             image per GPU at a time. One card: see mask_rcnn_vitdet_b_1x_small.py.
Schedule:    100 epochs = 184,375 steps * 64 images / 118,000 images; rate / 10 at 163,889 and 177,546.
Published:   ViTDet table 5 | Mask R-CNN, ViT-B, MAE on ImageNet-1k | 51.6 / 45.9 (published; std of five
               seeds 0.10, Detectron2's ViTDet)
             ViTDet table 4 | Mask R-CNN, ViT-B, no relative positions
               (model.backbone.net.use_rel_pos=false) | 51.2 / 45.5 (published)
Note:        for results with R-MAE's weights see the headers in configs/pretrain/.
Resources:   10.9 GB and 0.314 s per step on 64 A100 (published, Detectron2's ViT): 16 hours.
Measured:    not run here.
"""

from ..common.data.coco_lsj import dataloader
from ..common.models.mask_rcnn_vitdet import model
from ..common.optim_vitdet import optimizer
from ..common.schedule_vitdet import lr_multiplier
from ..common.train import train

train.output_dir = "output/coco/mask_rcnn_vitdet_b_100ep"
train.init_checkpoint = "output/rmae_vitb/model_final.pth"
train.max_iter = 184_375
# As published. On GPUs that support it, bf16 needs no loss scale: train.precision=bf16
# train.ddp.fp16_compression=false.
train.precision = "fp16"
train.ddp.fp16_compression = True
train.eval_period = 5000
train.checkpointer.period = 5000
