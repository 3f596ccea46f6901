"""Fine-tuning of a ViT-B/16 on CUB-200-2011: 200 birds, 5,994 training and 5,794 test images.

Command:     rmae-d2 train --config-file configs/finegrained/cub.py
             train.init_checkpoint=WEIGHTS (ours, MAE's, timm's or Hugging Face's)
Data:        $DETECTRON2_DATASETS/CUB_200_2011/, the release unmodified; boxes and parts are not used.
Batch, GPUs: 128 images per step on one GPU; the rate follows the batch, base 5e-4 per 256 images, so 2.5e-4.
Schedule:    100 epochs = 4,683 updates * 128 images / 5,994 images; warm-up 5 epochs, half cosine to 1e-6.
Published:   AutoMAE fine-grained | CUB-200-2011 | not found; better than MAE's and SemMAE's (second-hand)
Differs:     neither MAE's nor AutoMAE's recipe is published. This is ImageNet's, imagenet/finetune_vitb.py,
             with a smaller batch for a small data set. Not tuned; 224 pixels.
Measured:    not run here: the data were not available.
"""

from ..imagenet.finetune_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/finegrained/cub"
train.max_iter = 4_683
train.eval_period = 469
lr_multiplier.scheduler.end_value = 1e-6 / 2.5e-4

model.num_classes = 200
dataloader.train.dataset.names = "cub_200_train"
dataloader.test.dataset.names = "cub_200_test"
dataloader.train.total_batch_size = 128
