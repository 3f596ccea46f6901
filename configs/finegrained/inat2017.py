"""Fine-tuning of a ViT-B/16 on iNaturalist 2017: 5,089 species, 579,184 training and 95,986 test images.

Command:     rmae-d2 train --config-file configs/finegrained/inat2017.py --num-gpus 8
             train.init_checkpoint=WEIGHTS (ours, MAE's, timm's or Hugging Face's)
Data:        $DETECTRON2_DATASETS/inaturalist_2017/ with train2017.json, val2017.json and train_val_images/.
Batch, GPUs: as inat2018.py.
Schedule:    100 epochs = 56,561 updates * 1024 images / 579,184 images; warm-up 5 epochs.
Published:   MAE table 6 | iNaturalist 2017, ViT-B | 70.5 top-1 (published)
             AutoMAE fine-grained | iNaturalist, of which year is not known | not found
Differs:     as inat2018.py.
Measured:    not run here: the data were not available.
"""

from .inat2018 import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/finegrained/inat2017"
train.max_iter = 56_561
train.eval_period = 2_828

model.num_classes = 5089
dataloader.train.dataset.names = "inaturalist_2017_train"
dataloader.test.dataset.names = "inaturalist_2017_val"
