"""Not in the paper: predicts half of the hidden patches per step, drawn anew each time.

The pixel decoder's patches attend to visible ones only, so that a prediction does not depend on which others
are made; losses and gradients are unbiased. It pays at large sizes: docs/large_images.md.

Command:   rmae-d2 train --config-file configs/ablations/partial_decoding.py --num-gpus 8
Published: not in the paper; for MAE, CrossMAE (Fu et al., 2024) reports no loss from a quarter.
Measured:  not run here.
"""

from ..pretrain.rmae_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/ablations/partial_decoding"
model.decode_ratio = 0.5
model.pixel_decoder.hidden_attention = False
