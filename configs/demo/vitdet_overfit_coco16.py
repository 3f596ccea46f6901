"""A small Mask R-CNN (ViTDet) overfits a few photos: data, model and evaluation work together.

Command:     rmae-d2 train --config-file configs/demo/vitdet_overfit_coco16.py
             dataloader.train.dataset.json=FILE dataloader.train.dataset.root=IMAGES
             FILE is a COCO-format json of about 16 photos; AP is measured on the same photos.
Batch:       2 images per step, 1200 steps, from random weights.
Measured:    first 16 annotated photos of COCO train2017 by id: box AP 97.9, mask AP 62.8 after 1200 steps
             (59.1 / 27.1 after 400, 82.0 / 51.7 after 800), 6.5 minutes of one CPU core. One seed; that run
             was interrupted and resumed twice, with 900, 1250 and 1200 as train.max_iter. The uninterrupted
             version, tests/engine/test_overfit.py, passed (mask AP above 50).
"""

from .vitdet_tiny_coco import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/demo/vitdet_overfit_coco16"
train.init_checkpoint = ""
train.max_iter = 1200
train.checkpointer.period = 0
train.eval_period = 300

model.backbone.net.img_size = 256
model.backbone.net.use_rel_pos = False
model.backbone.net.depth = 3
model.proposal_generator.pre_nms_topk = (500, 250)
model.proposal_generator.post_nms_topk = (250, 100)

optimizer.params.lr_decay_rate = 1.0
optimizer.lr = 1.5e-3
optimizer.weight_decay = 0.0

# The same photos, unchanged, in training and evaluation.
dataloader.train.mapper.augmentations = dataloader.test.mapper.augmentations
dataloader.train.dataset.names = ()
dataloader.test.dataset.names = ()
dataloader.test.dataset.json = "${dataloader.train.dataset.json}"
dataloader.test.dataset.root = "${dataloader.train.dataset.root}"
dataloader.evaluator.dataset_name = ""
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 0
dataloader.test.num_workers = 0
