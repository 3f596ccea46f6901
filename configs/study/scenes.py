"""The study: how region learning changes a small encoder, and how it does not, on rendered scenes.

Command:     rmae-d2 study configs/study/scenes.py --records docs/study/study.json --page docs/study.md
Cost:        about 40 hours of a CPU core: 27.5 of pre-training as recorded, the transfers estimated. Split
             over any number of sessions, machines or GPUs.
Views:       192,000 for the main methods, 96,000 for all others, which are not fine-tuned because that
             would take as long again. Three seeds each, but for five settings of the region loss.
Equal cost:  `mae_compute` and `mae_compute_long` see 1.58 times as many views, because MAE's step is that
             much cheaper than R-MAE's (measured on one core of an AMD EPYC, batches of 32).
Ten times:   scenes_gpu.py.
Measured:    docs/study.md.
"""

from rmae_d2.data.scenes.render import THING_CLASSES

LONG, SHORT = 192_000, 96_000


def method(name, label, config, *overrides, views=SHORT, **more):
    """A method of the table of many, which the linear probe alone measures."""
    own = dict(name=name, label=label, config=f"study/{config}.py", views=views)
    own.update(group=f"{SHORT:,} views", baselines=["mae"], transfers=["linear"])
    own.update(overrides=overrides, **more)
    return own


def long(name, label, config, *overrides, **more):
    """A method of the table of few, which all transfers measure."""
    own = dict(group=f"{LONG:,} views", views=LONG, baselines=["mae_long"], transfers=None)
    return method(f"{name}_long", label, config, *overrides, **{**own, **more})


def vitdet(percent, *overrides):
    """Mask R-CNN on a share of the labels."""
    return dict(
        name=f"vitdet{percent}",
        label=f"ViTDet, {percent} % of the labels",
        config="study/vitdet.py",
        overrides=[f"dataloader.train.dataset.fraction={percent / 100}", *overrides],
    )


VARIANT = "model.region_branch._target_=rmae_d2.modeling."
# A harder task for the region branch: with the pixels' 75 %, no hidden region patch has visible pixels.
HIDE_90, TIMES_4 = "model.region_branch.mask_ratio=0.9", "model.region_weight=4.0"
# MAE with as many views, and with as much compute.
EQUAL, EQUAL_LONG = ["mae", "mae_compute"], ["mae_long", "mae_compute_long"]
SCORER = "model.masking.generator.scorer.weights={mae}"
OBJECTS = [f"sem_seg/IoU-{name}" for name in THING_CLASSES]

study = dict(
    name="scenes",
    data="datasets/study",
    output="output/study",
    seeds=3,
    scenes=dict(num_train=8000, num_val=500, seed=20),
    attention=dict(json="scenes/annotations/instances_val.json", root="scenes/val"),
    regions=dict(
        json="scenes/annotations/instances_val.json",
        root="scenes/val",
        sources=[
            dict(label="FH, scales 500, 1000, 1500", source="fh"),
            dict(label="nested, scales 500, 2000, 8000", source="nested"),
            dict(label="SLIC, 10, 20, 40 segments", source="slic"),
            dict(
                label="features of the shipped R-MAE",
                source="features",
                arguments=dict(weights="rmae-d2://rmae_scenes"),
            ),
            dict(
                label="proposals of the shipped R-MAE",
                source="proposals",
                arguments=dict(weights="rmae-d2://rmae_scenes"),
            ),
        ],
    ),
    methods=[
        long("random", "random weights", "rmae", views=0, line="random weights"),
        long("mae", "MAE", "mae", baselines=[], line="MAE"),
        long("mae_compute", "MAE, R-MAE's compute", "mae", views=304_000, line="MAE"),
        long("rmae", "R-MAE, FH", "rmae", baselines=EQUAL_LONG, line="R-MAE, FH"),
        long(
            "rmae_90_x4",
            "R-MAE, 90 % hidden, weight 4",
            "rmae",
            HIDE_90,
            TIMES_4,
            baselines=EQUAL_LONG,
            line="R-MAE, 90 % hidden, weight 4",
        ),
        method("mae", "MAE", "mae", baselines=[], line="MAE"),
        method("mae_compute", "MAE, R-MAE's compute", "mae", views=152_000, line="MAE"),
        method("rmae", "R-MAE, FH", "rmae", baselines=EQUAL, line="R-MAE, FH"),
        method("rae", "RAE, FH", "rmae", "model.pixel_decoder=null"),
        method("rmae_90", "R-MAE, 90 % of regions hidden", "rmae", HIDE_90, seeds=1),
        method("rmae_x4", "R-MAE, region weight 4", "rmae", TIMES_4, seeds=1),
        method(
            "rmae_90_x4",
            "R-MAE, 90 % hidden, weight 4",
            "rmae",
            HIDE_90,
            TIMES_4,
            baselines=EQUAL,
            line="R-MAE, 90 % hidden, weight 4",
        ),
        method(
            "rmae_90_x16",
            "R-MAE, 90 % hidden, weight 16",
            "rmae",
            HIDE_90,
            "model.region_weight=16.0",
            seeds=1,
        ),
        method(
            "rmae_95_x4",
            "R-MAE, 95 % hidden, weight 4",
            "rmae",
            "model.region_branch.mask_ratio=0.95",
            TIMES_4,
            seeds=1,
        ),
        method(
            "rmae_instances_90_x4",
            "R-MAE, instance masks, 90 % hidden, weight 4",
            "rmae_instances",
            HIDE_90,
            TIMES_4,
            seeds=1,
        ),
        method(
            "rae_90", "RAE, 90 % of regions hidden", "rmae", "model.pixel_decoder=null", HIDE_90
        ),
        method("rmae_instances", "R-MAE, instance masks", "rmae_instances"),
        method("rmae_features", "R-MAE, the shipped model's features", "rmae_features"),
        method("rmae_nested", "R-MAE, nested regions", "rmae_nested"),
        method(
            "rmae_partial",
            "R-MAE, a quarter decoded",
            "rmae",
            "model.decode_ratio=0.25",
            "model.pixel_decoder.hidden_attention=false",
        ),
        method("rmae_mixture", "R-MAE, FH and instances", "rmae_mixture"),
        method("rmae_batch", "R-MAE, batch", "rmae", f"{VARIANT}BatchRegionBranch"),
        method(
            "rmae_channel",
            "R-MAE, channel",
            "rmae",
            f"{VARIANT}ChannelRegionBranch",
            "model.region_branch.num_regions=8",
        ),
        method("automae", "AutoMAE", "automae", SCORER),
        method("automae_rmae", "AutoMAE with R-MAE", "automae_rmae", SCORER),
        # The upper bound: so far above that a difference would hide all others in the figure.
        method("supervised", "supervised", "supervised", baselines=[]),
    ],
    transfers=[
        dict(name="linear", label="linear probe", config="study/linear.py"),
        # In 300 steps a share makes no difference: MAE's box AP was 5.9, 5.8 and 5.9 with 1, 10 and 100 %.
        vitdet(1),
        vitdet(100, "train.max_iter=600", "train.eval_period=600"),
    ],
    metrics=[
        dict(stage="linear", name="sem_seg/mIoU", label="linear probe, mIoU"),
        dict(stage="linear", name=OBJECTS, label="objects, IoU"),
        dict(stage="linear", name="knn_seg/mIoU", label="k-NN, mIoU"),
        *(
            dict(stage=f"vitdet{percent}", name=f"{kind}/AP", label=f"{title} AP, {percent} %")
            for percent in (1, 100)
            for kind, title in (("bbox", "box"), ("segm", "mask"))
        ),
        dict(stage="pretrain", name="reconstruction/region_iou", label="FH region IoU", scale=100),
        dict(
            stage="pretrain",
            name="reconstruction/region_iou_instances",
            label="instance IoU",
            scale=100,
        ),
        dict(stage="attention", name="beyond_elsewhere", label="attention on objects", scale=100),
    ],
)
