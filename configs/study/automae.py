"""AutoMAE of the study, with the published constants; its scorer is the study's MAE of the same seed.

Command:     as rmae.py; on its own with
             model.masking.generator.scorer.weights=output/study/mae/model_final.pth
Batch:       as rmae.py.
With R-MAE:  automae_rmae.py.
Measured:    docs/study.md.
"""

from ..common.models.automae import masking, params
from .mae import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/automae"
# Before it is assigned, which copies it: automae_rmae.py imports it too.
masking.generator.scorer.weights = "output/study/mae/model_final.pth"
masking.generator.scorer.net.embed_dim = "${model.backbone.net.embed_dim}"
masking.generator.scorer.net.depth = "${model.backbone.net.depth}"
masking.generator.scorer.net.num_heads = "${model.backbone.net.num_heads}"
model.masking = masking
optimizer.params = params
