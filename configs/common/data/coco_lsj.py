"""COCO instances with large-scale jitter (ViTDet, appendix A.2): flip, resize by 0.1-2, crop to the input.

Own data (the number of classes is taken from it): dataloader.train.dataset.root=SET in any format of
docs/labels.md, or for COCO's dataloader.train.dataset.json=FILE dataloader.train.dataset.root=IMAGES;
likewise for dataloader.test.
"""

from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from rmae_d2.data import build_eval_loader, build_train_loader
from rmae_d2.data.datasets import detection_dataset
from rmae_d2.evaluation import DetectionEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(detection_dataset)(names="coco_2017_train", json=None, root=None),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(T.ResizeScale)(
                    min_scale=0.1,
                    max_scale=2.0,
                    target_height="${model.backbone.net.img_size}",
                    target_width="${model.backbone.net.img_size}",
                ),
                # Smaller images stay small; the backbone pads them.
                L(T.FixedSizeCrop)(
                    crop_size=["${model.backbone.net.img_size}", "${model.backbone.net.img_size}"],
                    pad=False,
                ),
            ],
            image_format="RGB",
            use_instance_mask=True,
            # Boxes of the cropped masks.
            recompute_boxes=True,
        ),
        total_batch_size=64,
        num_workers=4,
        seed="${train.seed}",
        grad_accum="${train.grad_accum}",
    ),
    test=L(build_eval_loader)(
        dataset=L(detection_dataset)(
            names="coco_2017_val", json=None, root=None, filter_empty=False
        ),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length="${model.backbone.net.img_size}",
                    max_size="${model.backbone.net.img_size}",
                ),
            ],
            image_format="RGB",
        ),
        num_workers=4,
        seed="${train.seed}",
    ),
    evaluator=L(DetectionEvaluator)(
        dataset_name="${dataloader.test.dataset.names}",
        json="${dataloader.test.dataset.json}",
        output_dir="${train.output_dir}/inference",
    ),
)
