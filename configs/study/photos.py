"""The study on photographs: a public encoder as given, and after further pre-training with MAE or R-MAE.

Command:     STUDY_WEIGHTS=hf://facebook/dinov2-small rmae-d2 study configs/study/photos.py
             --records docs/study/photos.json --page docs/study/photos.md
Data:        the parts of COCO and ADE20K that are under DETECTRON2_DATASETS.
Views:       960 per seed: it shows that the procedure works and what it costs, and claims nothing more.
Measured:    docs/study/photos.md.
"""

import os

given = os.environ.get("STUDY_WEIGHTS", "hf://facebook/dinov2-small")


def method(name, label, *overrides, views=960):
    overrides = [f"train.init_checkpoint={given}", *overrides]
    return dict(
        name=name,
        label=label,
        config="study/photos_rmae.py",
        views=views,
        baselines=["given"] if views else [],
        overrides=overrides,
    )


NO_REGIONS = ["dataloader.train.mapper.regions=null", "dataloader.test.also=[]"]
study = dict(
    name="photos",
    data=os.environ.get("DETECTRON2_DATASETS", "datasets"),
    output="output/study_photos",
    seeds=3,
    attention=dict(json="coco/annotations/instances_val2017.json", root="coco/val2017"),
    regions=dict(
        json="coco/annotations/instances_val2017.json",
        root="coco/val2017",
        sources=[
            dict(label="FH, scales 500, 1000, 1500", source="fh"),
            dict(label="nested, scales 500, 2000, 8000", source="nested"),
            dict(label="SLIC, 10, 20, 40 segments", source="slic"),
            dict(
                label="features of the shipped R-MAE, of scenes",
                source="features",
                arguments=dict(weights="rmae-d2://rmae_scenes"),
            ),
            dict(
                label="proposals of the shipped R-MAE, of scenes",
                source="proposals",
                arguments=dict(weights="rmae-d2://rmae_scenes"),
            ),
            dict(label="features as given", source="features", arguments=dict(weights=given)),
        ],
    ),
    methods=[
        method("given", "as given", views=0),
        method("mae", "and MAE", "model.region_branch=null", *NO_REGIONS),
        method("rmae", "and R-MAE, FH"),
    ],
    transfers=[dict(name="linear", label="linear probe", config="study/photos_linear.py")],
    metrics=[
        dict(stage="linear", name="sem_seg/mIoU", label="linear probe, mIoU"),
        dict(stage="linear", name="knn_seg/mIoU", label="k-NN, mIoU"),
        dict(stage="linear", name="knn_seg/pACC", label="k-NN, pixels"),
        dict(stage="pretrain", name="reconstruction/loss_pixel", label="pixel loss", digits=3),
        dict(
            stage="pretrain",
            name="reconstruction/region_iou",
            label="FH region IoU",
            scale=100,
        ),
        dict(stage="attention", name="beyond_elsewhere", label="attention on objects", scale=100),
    ],
)
del os
