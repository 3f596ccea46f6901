"""Fine-tuning of a ViT-B/16 on iNaturalist 2019: 1,010 species, 265,213 training and 3,030 test images.

Command:     rmae-d2 train --config-file configs/finegrained/inat2019.py --num-gpus 8
             train.init_checkpoint=WEIGHTS (ours, MAE's, timm's or Hugging Face's)
Data:        $DETECTRON2_DATASETS/inaturalist_2019/ with train2019.json, val2019.json and train_val2019/.
Batch, GPUs: as inat2018.py.
Schedule:    100 epochs = 25,900 updates * 1024 images / 265,213 images; warm-up 5 epochs.
Published:   MAE table 6 | iNaturalist 2019, ViT-B | 80.5 top-1 (published)
             AutoMAE fine-grained | iNaturalist, of which year is not known | not found
Differs:     as inat2018.py.
Measured:    not run here: the data were not available.
"""

from .inat2018 import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/finegrained/inat2019"
train.max_iter = 25_900
train.eval_period = 1_295

model.num_classes = 1010
dataloader.train.dataset.names = "inaturalist_2019_train"
dataloader.test.dataset.names = "inaturalist_2019_val"
