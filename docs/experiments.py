"""Writes docs/experiments.md: the papers' tables and figures, their configs or commands, what was run here.

    python docs/experiments.py

Rows come from the headers of the configs: lines ``ITEM | row | published`` of "Published:", and "Measured:".
What has no config of its own stands here. tests/test_experiments.py holds the page against both.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "experiments.md"

#: Of each paper what there is to reproduce, in its order.
ITEMS = {
    "R-MAE": [
        *("figure 1", "figure 2", "figure 3", "figure 4", "figure 5", "figure 6"),
        *("table 1b", "table 1c", "table 1d", "table 1e"),
        *("table 2", "table 3", "table 4", "table 5", "table 6", "text"),
    ],
    "AutoMAE": [
        *("figures", "preliminary study", "ImageNet", "label ratios"),
        *("detection", "segmentation", "fine-grained"),
    ],
    "MAE": ["table 1f", "table 3", "table 5", "table 6", "table 12"],
    "ViTDet": ["table 4", "table 5", "table 10"],
}

ABOUT = {
    "R-MAE": "ICLR 2024; ten tables and eight figures. What tables 1a and 7 to 10 and figures 7 and 8 show\n"
    "is not known to us. ImageNet and COCO numbers are of single runs, ADE20K's means of three runs\n"
    "(second-hand).",
    "AutoMAE": "PRCV 2023. Which tables hold what is not known to us but for the label ratios, table 5 of a\n"
    "first version.",
    "MAE": "CVPR 2022: what the two are compared with.",
    "ViTDet": "ECCV 2022: how detectors are fine-tuned.",
}


@dataclass
class Row:
    """One line of a table: an item such as "R-MAE table 1b", what it is, and the two columns of numbers."""

    item: str
    what: str
    where: str
    published: str
    here: str


#: What is no config's: a command, or a part of the package.
OTHERS = [
    Row(
        "R-MAE figure 1",
        "the pipeline",
        "`rmae_d2/modeling/rmae.py`",
        "a drawing",
        "losses, predictions and gradients equal to those recorded from the published network (tests)",
    ),
    Row(
        "R-MAE figure 2",
        "spatial expansion of the region query",
        "`rmae_d2/modeling/region_branch.py`",
        "a drawing",
        "as figure 1",
    ),
    Row(
        "R-MAE figure 3",
        "attention maps of MoCo v3, MAE and R-MAE",
        "`rmae-d2 visualize attention`",
        "pictures",
        "on scenes, with the demo's models: docs/attention.png; the published models are not at hand",
    ),
    Row(
        "R-MAE figure 5",
        "reconstructions of pixels and regions",
        "`rmae-d2 visualize reconstruction`",
        "pictures",
        "on scenes, with the demo's model: docs/figure5.png",
    ),
    Row(
        "R-MAE figure 6",
        "interactive segmentation (the figure's number differs between versions)",
        "`rmae-d2 demo`, `rmae-d2 evaluate-interactive`",
        "pictures, no IoU",
        "with the shipped weights: docs/interactive.md",
    ),
    Row(
        "R-MAE text",
        "regions as input only, nothing of them hidden",
        "`ablations/mask_ratio_regions.py model.region_branch.mask_ratio=0 model.feeding=region_to_pixel`",
        "not found",
        "not run here",
    ),
    Row(
        "R-MAE text",
        "regions as target only, all of them hidden",
        "`ablations/mask_ratio_regions.py model.region_branch.mask_ratio=1`",
        "not found",
        "not run here",
    ),
    Row(
        "R-MAE text",
        "regions drawn with replacement",
        "`pretrain/rmae_vitb.py dataloader.train.mapper.replacement=true`",
        "not found; the paper's words allow it (second-hand, v1), the published code has none",
        "not run here",
    ),
    Row(
        "MAE table 1f",
        "masks at random, in a block, on a grid, ViT-L",
        "any pre-training config, overrides in docs/automae.md",
        "fine-tuning / linear probe 84.9 / 73.5, 82.8 / 63.9, 84.0 / 66.0 (second-hand)",
        "not run here",
    ),
    Row(
        "AutoMAE figures",
        "where the generator looks",
        "`rmae-d2 visualize masking`",
        "pictures",
        "on scenes: docs/automae.png, docs/automae.md",
    ),
]

#: R-MAE's comparison with the state of the art, as published; nothing of it was run here.
STATE_OF_THE_ART = """
| method | epochs of ImageNet | box AP | mask AP | mIoU, ADE20K | FLOPs |
|---|---:|---:|---:|---:|---:|
| MAE | 1600 | 51.6 (ViTDet, table 5) | 45.9 (ViTDet, table 5) | 48.1 (MAE, table 5) | about 1x |
| R-MAE, FH | 800 | 51.3 (from memory) | 45.7 (from memory) | 46.6 (from memory) | 1x |
| R-MAE, FH | 1600 | 52.3 (second-hand) | 46.4 (second-hand) | 47.5 (from memory) | 1x |
| SemMAE | 800 | not found | not found | 46.3 (second-hand) | 1.8x to 4.3x? |
| MultiMAE | 1600 | below 52.3 | below 46.4 | 46.2 (from memory) | 1.8x to 4.3x |
| LoMaR | 1600 | about 51.4 (from memory) | about 45.7 (from memory) | not found | 1.8x to 4.3x |
| MixedAE | 1600 | 51.5 (from memory) | not found | 49.8 (from memory) | 1.8x to 4.3x |
| Long-Seq MAE | COCO | about 52.1 (from memory) | about 46.2 (from memory) | not found | 1.8x to 4.3x |

R-MAE has the highest box and mask AP of these at the lowest cost; on ADE20K it has not (MixedAE, 800 epochs,
is above it: second-hand). The others' numbers are from their own papers, whose protocols differ. FLOPs are of
one step, relative to R-MAE (second-hand: each of the last five lies in that band, which one where was not
found).
"""

HEAD = """# Experiments of the papers

Every table and figure, the config or command that repeats it here, the published number and its source, and
what was run here. Sources: **published** in the work itself or the one named; **second-hand**, quoted from
reviews and notes about the paper, whose text was not at hand (×2: two independent sources); **from memory**;
**computed**; or **not found**. COCO numbers are box AP / mask AP. Made by `python docs/experiments.py` from
the headers of the configs, which say more of each; costs are in [ablations.md](ablations.md).
"""


def page() -> str:
    """The whole file."""
    rows = [*OTHERS, *config_rows()]
    parts = [HEAD]
    for paper, items in ITEMS.items():
        order = {f"{paper} {item}": i for i, item in enumerate(items)}
        lines = [
            f"| {' | '.join((items[order[r.item]], r.what, r.where, r.published, r.here))} |"
            for r in sorted((r for r in rows if r.item in order), key=lambda r: order[r.item])
        ]
        table = [
            "| | row | config or command | published | run here |",
            "|---|---|---|---|---|",
            *lines,
        ]
        parts.append(f"## {paper}\n\n{ABOUT[paper]}\n\n" + "\n".join(table) + "\n")
        if paper == "R-MAE":
            parts.append("### Table 5: the state of the art, as published\n" + STATE_OF_THE_ART)
    return "\n".join(parts)


def config_rows() -> Iterator[Row]:
    """Of all configs, by name."""
    for path in sorted((ROOT / "configs").glob("*/*.py")):
        fields = header(path)
        for line in rows_of(fields.get("Published", "")):
            columns = [part.strip() for part in line.split(" | ")]
            if len(columns) != 3:
                raise SystemExit(f"{path}: three columns are needed under Published: {line}")
            item, what, published = columns
            name = f"`{path.relative_to(ROOT / 'configs')}`"
            yield Row(item, what, name, published, first_sentence(fields["Measured"]))


def header(path: Path) -> dict[str, str]:
    """The fields of a config's docstring, as they are written."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    parts = re.split(r"^([A-Z][\w, ]*): +", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows_of(published: str) -> list[str]:
    """Lines that begin with an item, each with those that go on with it; prose before the first is no row."""
    rows: list[str] = []
    for line in published.splitlines():
        if re.match(rf" *({'|'.join(ITEMS)}) [\w -]+ \| ", line):
            rows.append(line.strip())
        elif rows:
            rows[-1] += f" {line.strip()}"
    return rows


def first_sentence(text: str) -> str:
    """Without its full stop; a number's point ends none."""
    return re.split(r"\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
