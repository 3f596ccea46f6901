"""Linear probe of the study: what each frozen patch encodes of 12 objects and 5 backgrounds; and k-NN.

Command:     as rmae.py; on its own with train.init_checkpoint=output/study/rmae/model_final.pth
Batch:       32 crops of 96 pixels per step, 400 steps = 1.6 epochs of 8000 scenes.
k-NN:        of the patches of 512 training scenes, as in ../common/data/knn.py, without training.
Measured:    docs/study.md.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from rmae_d2.data import build_eval_loader
from rmae_d2.evaluation import KNNSegmentation

from ..ade20k.linear_vitb import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/study/linear"
train.max_iter = 400
train.precision = "fp32"
train.eval_period = 400
train.checkpointer.period = 400
train.log_period = 100

model.window = "${model.backbone.net.img_size}"
model.stride = None
model.backbone.net.img_size = 96
model.backbone.net.patch_size = 12
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3
model.sem_seg_head.num_classes = 17
model.sem_seg_head.norm = "BN"

optimizer.lr = 1e-2

dataloader.train.dataset.names = "scenes_train_semantic"
dataloader.test.dataset.names = "scenes_val_semantic"
dataloader.train.mapper.augmentations[0].short_edge_length = (96, 144)
dataloader.train.total_batch_size = 32
dataloader.train.num_workers = 1
dataloader.test.num_workers = 0
bank = deepcopy(dataloader.train.mapper)
bank.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length="${model.window}", max_size=2048),
    L(T.RandomCrop)(crop_type="absolute", crop_size=("${model.window}", "${model.window}")),
]
voters = deepcopy(dataloader.train.dataset)
voters.fraction = 512 / 8000
evaluator = deepcopy(dataloader.evaluator)
evaluator.output_dir = None
dataloader.knn = L(KNNSegmentation)(
    period=400,
    bank=L(build_eval_loader)(
        dataset=voters,
        mapper=bank,
        batch_size=32,
        num_workers=0,
    ),
    test=deepcopy(dataloader.test),
    evaluator=evaluator,
)
del bank, voters, evaluator
