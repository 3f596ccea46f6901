"""ADE20K's 150 classes from the unmodified release; crops and colours as in mmsegmentation's recipes."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from rmae_d2.data import build_eval_loader, build_train_loader
from rmae_d2.data.datasets.semantic import semantic_dataset
from rmae_d2.data.semantic_mapper import SemanticDatasetMapper
from rmae_d2.data.semantic_transforms import LimitedClassCrop, PhotometricDistortion
from rmae_d2.evaluation.semantic import SemSegEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        # Own data: dataloader.{train,test}.dataset.{images,labels}=FOLDER
        # dataloader.train.dataset.num_classes=N.
        dataset=L(semantic_dataset)(
            names="ade20k_sem_seg_train",
            images=None,
            labels=None,
            num_classes="${model.sem_seg_head.num_classes}",
            zero_is_ignored=False,
        ),
        mapper=L(SemanticDatasetMapper)(
            is_train=True,
            augmentations=[
                # 0.5 to 2 times the test size of 512.
                L(T.ResizeShortestEdge)(
                    short_edge_length=(256, 1024), max_size=4096, sample_style="range"
                ),
                L(LimitedClassCrop)(size="${model.window}", max_share=0.75),
                L(T.RandomFlip)(prob=0.5, horizontal=True),
                L(PhotometricDistortion)(hue=36.0),
            ],
            pad_to="${model.window}",
            # Images other than 8-bit RGB: the model's number of channels follows them.
            all_bands=False,
        ),
        total_batch_size=16,
        num_workers=4,
        seed="${train.seed}",
        grad_accum="${train.grad_accum}",
    ),
    test=L(build_eval_loader)(
        dataset=L(semantic_dataset)(
            names="ade20k_sem_seg_val",
            images=None,
            labels=None,
            num_classes="${model.sem_seg_head.num_classes}",
            zero_is_ignored="${dataloader.train.dataset.zero_is_ignored}",
        ),
        mapper=L(SemanticDatasetMapper)(
            is_train=False,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length="${model.window}", max_size=2048)
            ],
            all_bands="${dataloader.train.mapper.all_bands}",
        ),
        batch_size=1,
        num_workers=4,
    ),
    evaluator=L(SemSegEvaluator)(
        dataset_name="${dataloader.test.dataset.names}",
        images="${dataloader.test.dataset.images}",
        num_classes="${model.sem_seg_head.num_classes}",
        zero_is_ignored="${dataloader.test.dataset.zero_is_ignored}",
        output_dir="${train.output_dir}/inference",
    ),
)
