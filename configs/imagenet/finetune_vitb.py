"""Fine-tuning of a ViT-B/16 on ImageNet-1k, with mean pooling.

Command:     rmae-d2 train --config-file configs/imagenet/finetune_vitb.py --num-gpus 8
             train.init_checkpoint=WEIGHTS (ours, MAE's, timm's or Hugging Face's)
Batch, GPUs: 1024 images per step, 128 per GPU on 8; on fewer or smaller GPUs add train.grad_accum=N, or lower
             dataloader.train.total_batch_size: the learning rate follows, base 5e-4 per 256 images.
Schedule:    100 epochs = 125,114 updates * 1024 images / 1,281,167 images; warm-up 5 epochs, half cosine to
             1e-6.
Published:   MAE table 3 | fine-tuning, ViT-B | 83.6 top-1 (published); four seeds of the released code 83.63,
               83.66, 83.52, 83.46
             R-MAE table 6 | fine-tuning, ViT-B | 83.6 top-1, as MAE (second-hand)
Differs:     base rate 5e-4 and layer decay 0.65 are from the released command for ViT-B; the paper's table 9
             has 1e-3 and 0.75.
Evaluation:  --eval-only also takes fine-tuned classifiers of other projects (MAE, DeiT, timm, Hugging Face).
             If they use the cls token, add model.pool=cls; if their mean and deviation are not ImageNet's,
             set model.pixel_mean and pixel_std, in the range 0-255.
Own images:  dataloader.train.dataset.root=/photos; see configs/common/data/imagenet.py.
Measured:    not run here: ImageNet was not available.
"""

from detectron2.config import LazyCall as L

from rmae_d2.data.classification_mapper import RandAugment
from rmae_d2.solver import layer_decayed_params, linear_rate, scaled_adamw

from ..common.data.imagenet import dataloader
from ..common.models.classifier_vitb import model
from ..common.schedule import lr_multiplier
from ..common.train import train

train.output_dir = "output/finetune_vitb"
train.init_checkpoint = "output/rmae_vitb_imagenet/model_final.pth"
train.max_iter = 125_114
train.precision = "bf16"
train.eval_period = 6256
lr_multiplier.warmup_length = 5 / 100
lr_multiplier.scheduler.end_value = 1e-6 / 2e-3

model.mode = "finetune"
model.pool = "mean"
model.backbone.net.drop_path_rate = 0.1
model.label_smoothing = 0.1
model.mixup_alpha = 0.8
model.cutmix_alpha = 1.0
model.random_erasing = 0.25

dataloader.train.mapper.augmentations.append(L(RandAugment)(policy="rand-m9-mstd0.5-inc1"))
optimizer = L(scaled_adamw)(
    params=L(layer_decayed_params)(
        base_lr=L(linear_rate)(
            base_lr="${optimizer.base_lr}", batch_size="${optimizer.batch_size}"
        ),
        lr_decay_rate=0.65,
        # Norms are not decayed by default; neither are these.
        overrides={name: {"weight_decay": 0.0} for name in ("pos_embed", "cls_token", "bias")},
    ),
    base_lr=5e-4,
    batch_size="${dataloader.train.total_batch_size}",
    betas=(0.9, 0.999),
    weight_decay=0.05,
)
