"""Fine-tuning of a ViT-B/16 on Stanford Cars: 196 models, 8,144 training and 8,041 test images.

Command:     rmae-d2 train --config-file configs/finegrained/cars.py
             train.init_checkpoint=WEIGHTS (ours, MAE's, timm's or Hugging Face's)
Data:        $DETECTRON2_DATASETS/stanford_cars/, the release unmodified; boxes are not used.
Batch, GPUs: as cub.py.
Schedule:    100 epochs = 6,363 updates * 128 images / 8,144 images; warm-up 5 epochs.
Published:   AutoMAE fine-grained | Stanford Cars | not found; better than MAE's and SemMAE's (second-hand)
Differs:     as cub.py.
Measured:    not run here: the data were not available.
"""

from .cub import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/finegrained/cars"
train.max_iter = 6_363
train.eval_period = 637

model.num_classes = 196
dataloader.train.dataset.names = "stanford_cars_train"
dataloader.test.dataset.names = "stanford_cars_test"
