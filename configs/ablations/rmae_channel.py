"""R-MAE table 1c, R-MAE, channel: the K region maps are channels of one input.

Command:   rmae-d2 train --config-file configs/ablations/rmae_channel.py --num-gpus 8
Published: R-MAE table 1c | R-MAE, channel | not found
Reading:   the paper's text was not available; rmae_d2/modeling/region_variants.py explains how this variant
           is interpreted.
Measured:  not run here.
"""

from rmae_d2.modeling import ChannelRegionBranch

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/rmae_channel"
model.region_branch["_target_"] = ChannelRegionBranch
model.region_branch.num_regions = "${dataloader.train.mapper.num_regions}"
