"""``rmae-d2`` as the docs type it, made small: the line as it stands, and behind it what overrides its sizes.

``tests/test_docs_run.py`` puts it on PATH under the program's name. What is behind counts, to argparse and to
the program's own overrides alike. The file or folder that a line names as its output has to be there then.
"""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

#: As wide as a ViT-Ti, so that files without a config tell the number of heads.
NET = ["embed_dim=192", "depth=4", "num_heads=3"]
TRAIN = [
    "train.precision=fp32",
    "train.max_iter=2",
    "train.eval_period=2",
    "train.log_period=1",
    "train.vis_period=0",
    "train.checkpointer.period=2",
    "dataloader.train.total_batch_size=4",
    "train.grad_accum=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
]
#: 112 pixels are whole patches of 14 and of 16.
MAE = [
    "model.backbone.net.img_size=112",
    "model.pixel_decoder.dim=16",
    "model.pixel_decoder.depth=1",
    "model.pixel_decoder.num_heads=4",
]
RMAE = [
    *MAE,
    "model.region_branch.encoder_dim=16",
    "model.region_branch.encoder_num_heads=4",
    "model.region_branch.decoder_dim=16",
    "model.region_branch.decoder_num_heads=4",
]
#: Four windows.
WINDOWS = [
    *RMAE,
    "model.backbone.net.img_size=128",
    "model.backbone.net.window_size=4",
    "model.backbone.net.window_block_indexes=[0]",
]
HEADS = [
    "model.proposal_generator.post_nms_topk=[50,20]",
    "model.roi_heads.batch_size_per_image=16",
    "model.roi_heads.box_head.conv_dims=[16]",
    "model.roi_heads.box_head.fc_dims=[32]",
    "model.roi_heads.mask_head.conv_dims=[16,16]",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
    "model.roi_heads.box_predictor.test_topk_per_image=5",
]
DETECTOR = [
    "model.backbone.net.img_size=128",
    "model.backbone.net.window_block_indexes=[0,2]",
    "model.backbone.out_channels=16",
    *HEADS,
]
#: Four stages of a block; no depth and heads as of a ViT.
HIERA_NET = [
    "model.backbone.net.img_size=128",
    "model.backbone.net.embed_dim=64",
    "model.backbone.net.stages=[1,1,1,1]",
]
HIERA = [*HIERA_NET, *(x for x in RMAE if "backbone" not in x)]
UPERNET = [
    "model.backbone.net.img_size=64",
    "model.backbone.net.out_indices=[0,1,2,3]",
    "model.backbone.in_features=[block0,block1,block2,block3]",
    "model.sem_seg_head.channels=8",
    "model.sem_seg_head.aux_channels=8",
    "model.stride=32",
]
#: What makes a config small, by the beginning of its name.
FAMILIES = {
    "pretrain/rmae_vitb_1024": WINDOWS,
    "pretrain/rmae_hiera": HIERA,
    "coco/mask_rcnn_hiera": [*HIERA_NET, *HEADS],
    "pretrain/rmae_|demo/rmae_": RMAE,
    "pretrain/mae_|demo/mae_": MAE,
    "pretrain/automae_|demo/automae_": [
        *MAE,
        *(f"model.masking.generator.scorer.net.{x}" for x in NET),
    ],
    "coco/|lvis/|demo/vitdet_": DETECTOR,
    "ade20k/upernet_": UPERNET,
    "demo/linear_semantic_": ["model.window=64", "model.stride=32"],
    # For a CPU core as it is.
    "study/rmae": [],
    "imagenet/linear_": ["model.backbone.net.img_size=64", "model.num_classes=2"],
}
#: Of other commands, by how the line begins.
OPTIONS = {
    "study ": ["--page-only"],
    r"scenes (?!.*--crops)": ["--num-train", "12", "--num-val", "4"],
    "evaluate-interactive ": ["--max-objects", "2"],
    r"(regions|pack) ": ["--workers", "0"],
    "benchmark step ": [
        *("--arch", "small", "--batch", "1", "--repeat", "1"),
        *("--variants", "R-MAE", "--precision", "fp32"),
    ],
}
#: Compiling takes minutes, whatever the size.
LEFT_OUT = {"benchmark step ": "--compile"}


def overrides(config: str) -> list[str]:
    """What makes a config of the package small; of a run's config.yaml nothing, for it is small already."""
    name = config.removeprefix("configs/")
    if name.endswith(".yaml"):
        return []
    family = next(small for pattern, small in FAMILIES.items() if re.match(pattern, name))
    net = [] if "hiera" in name else [f"model.backbone.net.{x}" for x in NET]
    return [*TRAIN, *net, *family]


def small(words: list[str]) -> list[str]:
    """A documented line, as words without the program's name, with what makes it small."""
    line = " ".join(words)
    if words[0] in ("train", "sweep") and "model.backbone.net.depth=2" not in words:
        more = overrides(words[words.index("--config-file") + 1])
        if words[0] == "sweep":
            more = [*more, "--seeds", "1"]
        elif "--num-gpus" in words:
            more = [*more, "--num-gpus", "1"]
        if "--then" in words:
            second = overrides(words[words.index("--then") + 1])
            more = [*more, *(word for x in second for word in ("--then-set", x))]
    else:
        more = [x for start, added in OPTIONS.items() if re.match(start, line) for x in added]
    gone = {word for start, word in LEFT_OUT.items() if line.startswith(start)}
    return [*(word for word in words if word not in gone), *more]


def look_at(words: list[str]) -> int:
    """Starts a server on a free port, fetches its page and ends it by ctrl-C; the exit code."""
    command = [sys.executable, "-m", "rmae_d2", *words, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        addresses = (re.search(r"http://\S+", line) for line in server.stdout)
        address = next(match[0] for match in addresses if match)
        with urllib.request.urlopen(address) as answer:
            assert b"<html" in answer.read()
        server.send_signal(signal.SIGINT)
        return server.wait()
    finally:
        server.kill()


def missing(words: list[str]) -> list[Path]:
    """Outputs that a line names and did not leave."""
    named = dict(zip(words, words[1:], strict=False))
    paths = [Path(named["--output"])] if "--output" in named else []
    for folder in re.findall(r"(?<= train\.output_dir=)\S+", " ".join(words)):
        evaluates = "--eval-only" in words
        paths.append(Path(folder) / ("run.jsonl" if evaluates else "model_final.pth"))
    return [path for path in paths if not path.exists()]


def main(words: list[str]) -> int:
    if words[0] == "demo":
        return look_at(words)
    from rmae_d2.commands import run

    if code := run(small(words)):
        return code
    if absent := missing(words):
        print(f"error: not there: {', '.join(map(str, absent))}", file=sys.stderr)
    return int(bool(absent))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
