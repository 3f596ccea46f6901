"""Fine-tuning of a ViT-B/16 on iNaturalist 2018: 8,142 species, 437,513 training and 24,426 test images.

Command:     rmae-d2 train --config-file configs/finegrained/inat2018.py --num-gpus 8
             train.init_checkpoint=WEIGHTS (ours, MAE's, timm's or Hugging Face's)
Data:        $DETECTRON2_DATASETS/inaturalist_2018/ with train2018.json, val2018.json and train_val2018/.
Batch, GPUs: 1024 images per step, as imagenet/finetune_vitb.py.
Schedule:    100 epochs = 42,726 updates * 1024 images / 437,513 images; warm-up 5 epochs.
Published:   MAE table 6 | iNaturalist 2018, ViT-B | 75.4 top-1 (published)
             AutoMAE fine-grained | iNaturalist, of which year is not known | not found
Differs:     according to its appendix, MAE uses ImageNet's settings (table 9) with rate and epochs adjusted
             to each data set; these are not published. Here they are those of imagenet/finetune_vitb.py.
Measured:    not run here: the data were not available.
"""

from ..imagenet.finetune_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/finegrained/inat2018"
train.max_iter = 42_726
train.eval_period = 2_136

model.num_classes = 8142
dataloader.train.dataset.names = "inaturalist_2018_train"
dataloader.test.dataset.names = "inaturalist_2018_val"
