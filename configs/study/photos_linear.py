"""Linear probe and k-NN of the study on photographs: linear.py on ADE20K's.

Command:     as photos.py
Batch:       4 crops of 224 pixels per step, 60 steps = 30 epochs of 8 photos.
Measured:    docs/study/photos.md.
"""

from .linear import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study_photos/linear"
train.max_iter = 60
train.eval_period = 60
train.log_period = 20
train.checkpointer.period = 60

model.backbone.net.img_size = 224
model.backbone.net.patch_size = 14
model.backbone.net.embed_dim = 384
model.backbone.net.depth = 12
model.backbone.net.num_heads = 6
model.sem_seg_head.num_classes = 150

dataloader.train.dataset.names = "ade20k_sem_seg_train"
dataloader.test.dataset.names = "ade20k_sem_seg_val"
dataloader.train.mapper.augmentations[0].short_edge_length = (224, 336)
dataloader.train.total_batch_size = 4
dataloader.knn.period = 60
dataloader.knn.bank.dataset.names = "ade20k_sem_seg_train"
dataloader.knn.bank.dataset.fraction = 1
dataloader.knn.bank.batch_size = 8
dataloader.knn.test.dataset.names = "ade20k_sem_seg_val"
