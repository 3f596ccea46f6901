"""Pre-training data: images without labels, their regions from a store, or computed on the fly and cached."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from rmae_d2.data import (
    RandomResizedCrop,
    RegionDatasetMapper,
    build_reconstruction_loader,
    build_train_loader,
)
from rmae_d2.data.datasets import pretrain_dataset
from rmae_d2.evaluation import ReconstructionEvaluator
from rmae_d2.regions import FelzenszwalbSource, StoredRegions

from .knn import knn

dataloader = dict(
    train=L(build_train_loader)(
        # Own images: dataloader.train.dataset.root= a folder, a text list, a COCO json or another
        # format (docs/labels.md). If the run is evaluated (train.eval_period), a tenth of them is held
        # out for that.
        dataset=L(pretrain_dataset)(names=("coco_2017_train",), root=None),
        mapper=L(RegionDatasetMapper)(
            augmentations=[
                L(RandomResizedCrop)(
                    size="${model.backbone.net.img_size}", scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)
                ),
                L(T.RandomFlip)(prob=0.5),
            ],
            regions=L(StoredRegions)(
                path=None,  # a folder made by rmae-d2 regions
                # For images that are not in the store, or all if no path is given.
                fallback=L(FelzenszwalbSource)(
                    scales=(500, 1000, 1500),
                    # Beside the run's folder, so that later runs find it.
                    cache_dir="${train.output_dir}/../region_cache",
                ),
            ),
            # Images other than 8-bit RGB: the model's number of channels follows them.
            all_bands=False,
            num_regions=8,
            # The paper's wording allows drawing a region twice; the published code does not.
            replacement=False,
            patch_size="${model.backbone.net.patch_size}",
            mask_ratio="${model.mask_ratio}",
            region_mask_ratio="${oc.select:model.region_branch.mask_ratio,null}",
            masking="${oc.select:model.masking._target_,null}",
        ),
        total_batch_size=4096,
        # Crops per image and decoding; above 1, a batch has fewer different images.
        views_per_image=1,
        num_workers=8,
        seed="${train.seed}",
        grad_accum="${train.grad_accum}",
    ),
    test=L(build_reconstruction_loader)(
        dataset=L(pretrain_dataset)(names=("coco_2017_val",), root=None),
        mapper="${dataloader.train.mapper}",
        # Additional region sources for evaluation only: [{_target_: rmae_d2.regions.InstanceSource,
        # json_file: FILE}].
        also=[],
        batch_size=32,
        num_workers=8,
    ),
    evaluator=L(ReconstructionEvaluator)(),
    # k-NN on labelled images during training: dataloader.knn.period=N dataloader.knn.loader.dataset.root=DIR
    knn=knn,
)
