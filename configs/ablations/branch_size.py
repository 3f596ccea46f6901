"""R-MAE, width and depth of region encoder, neck and region decoder.

Command:     rmae-d2 sweep --config-file configs/ablations/branch_size.py --num-gpus 8
             --output output/ablations/branch_size
             --then configs/coco/mask_rcnn_vitdet_b_100ep.py --then-set train.grad_accum=8
             model.region_branch.encoder_dim=64,128,256,512
             'model.region_branch.decoder_dim=${model.region_branch.encoder_dim}'
Sweep:       for depths, replace the widths by model.region_branch.encoder_depth=1,2,4 or
             model.region_branch.decoder_depth=1,2,4 in the same command.
Published:   R-MAE text | width and depth of the branch | not found; one block of 128 each (second-hand ×2)
Reading:     the paper's points are not known. On its own, this config trains the width 256.
Measured:    not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/branch_size"
model.region_branch.encoder_dim = 256
model.region_branch.decoder_dim = 256
