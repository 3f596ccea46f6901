"""ImageNet, or own images in the same folders: random crops and flips; tests on centre crops."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from rmae_d2.data import RandomResizedCrop, build_eval_loader, build_train_loader
from rmae_d2.data.classification_mapper import ClassificationDatasetMapper, ResizeCenterCrop
from rmae_d2.data.datasets.image_folder import classification_dataset
from rmae_d2.evaluation.classification import ClassificationEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        # Own images: dataloader.train.dataset.root=/photos with train/<class>/ and val/<class>/ in it; the
        # model's number of classes follows. Without root it is $DETECTRON2_DATASETS/imagenet.
        dataset=L(classification_dataset)(
            root=None, split="train", num_classes="${model.num_classes}", per_class=None
        ),
        mapper=L(ClassificationDatasetMapper)(
            augmentations=[
                L(RandomResizedCrop)(size="${model.backbone.net.img_size}", scale=(0.08, 1.0)),
                L(T.RandomFlip)(prob=0.5),
            ],
        ),
        total_batch_size=1024,
        num_workers=8,
        seed="${train.seed}",
        grad_accum="${train.grad_accum}",
    ),
    test=L(build_eval_loader)(
        dataset=L(classification_dataset)(
            root="${dataloader.train.dataset.root}",
            split="val",
            num_classes="${model.num_classes}",
            per_class=None,
        ),
        mapper=L(ClassificationDatasetMapper)(
            augmentations=[
                L(ResizeCenterCrop)(size="${model.backbone.net.img_size}", crop_share=224 / 256)
            ],
        ),
        batch_size=64,
        num_workers=8,
    ),
    evaluator=L(ClassificationEvaluator)(),
)
