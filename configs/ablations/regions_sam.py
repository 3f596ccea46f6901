"""R-MAE table 1d, R-MAE with regions from SAM.

Command:   rmae-d2 train --config-file configs/ablations/regions_sam.py --num-gpus 8
Published: R-MAE table 1d | R-MAE, SAM | 51.4 box AP (computed: MAE's 50.1 and the quoted +1.3, second-hand)
Reading:   from a precomputed store, because SAM takes seconds per image: rmae-d2 regions --source sam
           --dataset coco_2017_train --output DIR model=facebook/sam-vit-huge, then
           dataloader.train.mapper.regions.path=DIR. From json files that SAM wrote elsewhere: --source
           sam-json folder=JSONS. For --eval-only, the same key takes a store of coco_2017_val.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/regions_sam"
dataloader.train.mapper.regions.fallback = None
