"""Fine-tuning of a ViT-B/16 with 10 % of ImageNet-1k's labels, with mean pooling.

Command:     rmae-d2 train --config-file configs/imagenet/finetune_vitb_10pct.py --num-gpus 8
             train.init_checkpoint=WEIGHTS (AutoMAE: output/automae_vitb_imagenet/model_final.pth)
Data:        10 % of each class's images, about 128,117, including those of finetune_vitb_1pct.py.
Batch, GPUs: as finetune_vitb.py.
Schedule:    100 epochs = 12,512 updates * 1024 images / 128,117 images; warm-up 5 epochs.
Published:   AutoMAE label ratios | fine-tuning, 10 % of the labels | not found, nor which ratios the paper
               has
Differs:     as finetune_vitb_1pct.py: the same number of epochs, so a tenth of the updates.
Measured:    not run here: ImageNet was not available.
"""

from .finetune_vitb_1pct import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/finetune_vitb_10pct"
train.max_iter = 12_512
train.eval_period = 3_128
dataloader.train.dataset.fraction = 0.1
