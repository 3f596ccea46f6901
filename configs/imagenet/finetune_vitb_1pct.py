"""Fine-tuning of a ViT-B/16 with 1 % of ImageNet-1k's labels, with mean pooling.

Command:     rmae-d2 train --config-file configs/imagenet/finetune_vitb_1pct.py --num-gpus 8
             train.init_checkpoint=WEIGHTS (AutoMAE: output/automae_vitb_imagenet/model_final.pth)
Data:        1 % of each class's images, at least one, about 12,811, selected by name with
             dataloader.train.dataset.fraction_seed=0; not the lists that others have published. Regardless of
             class: dataloader.train.dataset.fraction_per_class=false. All validation images.
Batch, GPUs: as finetune_vitb.py.
Schedule:    100 epochs = 1,252 updates * 1024 images / 12,811 images; warm-up 5 epochs. train.max_iter does
             not follow the fraction: for another one set updates = epochs * images / batch.
Published:   AutoMAE label ratios | fine-tuning, 1 % of the labels | not found, nor which ratios the paper has
Differs:     no recipe for few labels is published. This is AutoMAE's released command for all labels, which
             is MAE's (finetune_vitb.py), with the same number of epochs, so a hundredth of its updates.
Measured:    not run here: ImageNet was not available.
"""

from .finetune_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/finetune_vitb_1pct"
train.max_iter = 1_252
train.eval_period = 626
dataloader.train.dataset.fraction = 0.01
