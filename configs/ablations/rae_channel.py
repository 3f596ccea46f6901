"""R-MAE table 1b, RAE, channel: the K region maps are channels of one input.

Command:   rmae-d2 train --config-file configs/ablations/rae_channel.py --num-gpus 8
Published: R-MAE table 1b | RAE, channel | not found; below length and batch (from memory)
Note:      cheap, not permutation-equivariant (second-hand, v1).
Reading:   the paper's text was not available; rmae_d2/modeling/region_variants.py explains how this variant
           is interpreted.
Measured:  not run here.
"""

from rmae_d2.modeling import ChannelRegionBranch

from ..pretrain.rae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/rae_channel"
model.region_branch["_target_"] = ChannelRegionBranch
model.region_branch.num_regions = "${dataloader.train.mapper.num_regions}"
