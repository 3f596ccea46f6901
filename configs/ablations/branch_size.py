"""R-MAE, width and depth of region encoder, neck and region decoder.

Command:   rmae-d2 train --config-file configs/ablations/branch_size.py --num-gpus 8
Published: values not found; default one block of width 128 each (second-hand, two sources).
Sweep:     model.region_branch.encoder_dim and .decoder_dim 64, 128, 256, 512 together;
           model.region_branch.encoder_depth=1, 2, 4 and model.region_branch.decoder_depth=1, 2, 4.
           The paper's points are not known.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/branch_size"
model.region_branch.encoder_dim = 256
model.region_branch.decoder_dim = 256
