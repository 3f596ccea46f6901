"""The study at ten times the size, for a GPU: 1.9 and 0.96 million views of 128 pixels, and a ViT-S.

Command:     rmae-d2 study configs/study/scenes_gpu.py --records docs/study/study_gpu.json
             --page docs/study/study_gpu.md; several GPUs: --jobs 8, --cluster slurm or ray
Sizes:       as scenes.py, but ten times the views, in batches of 512, of 20,000 scenes, and an encoder of
             width 384 and depth 12. Decoders and region branch are unchanged.
Equal cost:  MAE with R-MAE's compute keeps the factor of scenes.py's encoder, 1.58. For this larger one it is
             probably too high: measure it there (--cost) before that comparison is used.
Measured:    not run: no GPU was available.
"""

from .scenes import study

study.name = "scenes_gpu"
study.data = "datasets/study_gpu"
study.output = "output/study_gpu"
study.scenes.num_train = 20_000
study.times = 10

ENCODER = ["embed_dim=384", "depth=12", "num_heads=6"]
encoder = [f"model.backbone.net.{word}" for word in ENCODER]
views = [f"model.backbone.net.{word}" for word in ("img_size=128", "patch_size=16")]
study.overrides = [
    *encoder,
    *views,
    "dataloader.train.total_batch_size=512",
    "dataloader.train.num_workers=8",
    # Per 256 images: 1.5e-3 for 512, above scenes.py's 1e-3 for 64.
    "optimizer.base_lr=7.5e-4",
    "train.precision=bf16",
]
for transfer in study.transfers:
    own = encoder if "vitdet" in transfer.config else [*encoder, *views]
    transfer.overrides = [*transfer.get("overrides", []), *own]
