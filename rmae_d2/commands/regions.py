"""Makes the regions of a dataset's images, once for all training runs.

    rmae-d2 regions --source fh --dataset coco_2017_train --output DIR --workers 16
    rmae-d2 regions --source fh --images FOLDER --output DIR scales=[1000]
    rmae-d2 regions --source sam --images FOLDER --output DIR model=facebook/sam2.1-hiera-small
    rmae-d2 regions --source detections --images FOLDER --output DIR json_file=FILE min_score=0.5
    rmae-d2 regions --source slic.py:Slic --images FOLDER --output DIR segments=50
    rmae-d2 regions --output DIR                resume what was begun in DIR
    rmae-d2 regions --output DIR --verify

A Slurm array runs the same line in all tasks, with
    --shard-index $SLURM_ARRAY_TASK_ID --num-shards $SLURM_ARRAY_TASK_COUNT (an array from 0)
and a Ray cluster runs it with --engine ray.

The exit code is 1 for an error, suspiciously many failures, or a problem found by --verify;
130 and 143 when stopped by ctrl-C or SIGTERM.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..config.ranges import COUNT, NOT_NEGATIVE, SHARE
from ..errors import UserError
from ..files import check_output
from . import options

if TYPE_CHECKING:
    from ..regions.jobs.generate import Problem
    from ..regions.jobs.manifest import Manifest
    from ..regions.jobs.run import Engine, Summary
    from ..regions.sources.spec import SourceSpec


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", required=True, help="folder of the store; repeating the command resumes")
    what = "fh, instances, panoptic, detections, sam, sam-json, npy, or a custom class as "
    add("--source", help=f"{what}package.module:Class or path/to/file.py:Class")
    add("--dataset", action="append", help="name of a registered dataset; may be repeated")
    add("--images", help="custom images: a folder, a .txt list, a COCO .json ... (docs/labels.md)")
    add("--image-root", help="folder of the json's images, if they are not found otherwise")
    what = "the most that a killed worker loses (default 1000, less if workers would be idle)"
    what += "; a store keeps its initial number"
    add("--images-per-shard", type=options.integer(COUNT), metavar="N", help=what)
    job_arguments(parser)


def job_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of all commands that make shards."""
    add = parser.add_argument
    what = "processes (default: one per core, or one per GPU for sam; 0: none)"
    add("--workers", type=options.integer(NOT_NEGATIVE), help=what)
    add(
        "--shard-index",
        type=options.integer(NOT_NEGATIVE),
        default=0,
        help="this task's number, 0 ... NUM_SHARDS - 1",
    )
    add(
        "--num-shards",
        type=options.integer(COUNT),
        default=1,
        help="tasks that share the work, as in a Slurm array",
    )
    add("--engine", choices=("local", "ray"), default="local")
    what = "auto: the running cluster; local: start one; HOST:PORT"
    add("--ray-address", default="auto", help=what)
    add("--verify", action="store_true", help="check every record against its digest and its image")
    add("--retry-failures", action="store_true", help="remake shards with failed images")
    what = "share of a shard's images that may fail before the exit code is 1 (default %(default)s)"
    add("--max-failures", type=options.real(SHARE), default=0.1, help=what)
    options.overrides(parser, "arguments", "of the source's arguments, as YAML")


def run(args: argparse.Namespace) -> int:
    return run_job(args, _manifest)


def run_job(
    args: argparse.Namespace, manifest_of: "Callable[[argparse.Namespace, Engine], Manifest]"
) -> int:
    """Makes or verifies the shards that a manifest describes; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)  # runs all `finally` blocks

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _run(args, manifest_of)
    except KeyboardInterrupt as stop:
        print(
            f"\nstopped. Finished shards are in {args.output}; the same command goes on from there",
            file=sys.stderr,
        )
        return 128 + (stop.args or (signal.SIGINT,))[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def parse_source(name: str, arguments: Sequence[str]) -> "SourceSpec":
    """Builds a source's specification from its name and `key=value` texts; UserError if one does not fit."""
    from omegaconf import OmegaConf

    from ..config import apply_overrides
    from ..regions.sources.spec import SourceSpec

    spec = SourceSpec.named(name)
    source = spec.load()
    target = f"{source.__module__}.{source.__qualname__}"
    cfg = apply_overrides(OmegaConf.create({"_target_": target}), arguments)
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    if values.pop("_target_") != target:
        raise UserError("_target_: a source is named by --source")
    return SourceSpec(spec.target, {str(key): value for key, value in values.items()})


def _run(
    args: argparse.Namespace, manifest_of: "Callable[[argparse.Namespace, Engine], Manifest]"
) -> int:
    from ..photos.reading import read_for_regions
    from ..regions.jobs.run import Engine, make_regions, verify_regions

    if not args.verify:
        check_output(args.output, folder=True)
    engine = Engine(args.engine, args.workers, args.ray_address)
    manifest = manifest_of(args, engine)
    share = (args.shard_index, args.num_shards)
    if args.verify:
        problems = verify_regions(manifest, args.output, engine, read_for_regions, share=share)
        print(_verdict(args.output, problems, manifest), flush=True)
        return 1 if problems else 0
    limits = {"retry_failures": args.retry_failures, "max_failures": args.max_failures}
    summary = make_regions(manifest, args.output, engine, read_for_regions, share=share, **limits)
    print(_report(args.output, manifest, summary), flush=True)
    return 1 if summary.suspicious else 0


def _manifest(args: argparse.Namespace, engine: "Engine") -> "Manifest":
    """Returns the manifest that the options ask for; omitted options come from the folder's own."""
    from ..data import pretrain_dataset
    from ..regions.jobs.manifest import Manifest, images_per_shard, load_manifest
    from ..regions.jobs.run import gpus_of

    found = load_manifest(args.output)
    dicts = None
    if args.images is not None:
        dicts = pretrain_dataset((), args.images, args.image_root)
    elif args.dataset:
        dicts = pretrain_dataset(args.dataset)
    if args.verify or (args.source is None and found is not None):
        if found is None:
            raise UserError(f"{args.output} has no manifest.json: it is not a region store")
        if args.arguments and args.source is None:
            raise UserError(f"{' '.join(args.arguments)}: arguments of a source need --source")
        return found.moved(dicts) if dicts is not None else found
    if args.source is None or (dicts is None and found is None):
        raise UserError("say what to make: --source NAME and --dataset NAME or --images PATH")
    spec = parse_source(args.source, args.arguments)
    if dicts is None:
        dicts = found.dataset_dicts() if found else []
    division = args.images_per_shard or (found.division if found else None)
    if division is None:
        # Tasks of an array make the same division independently, from their command line.
        alone = args.num_shards == 1
        workers = engine.num_workers(gpus_of(spec)) if alone else args.workers or 1
        division = images_per_shard(len(dicts), args.num_shards * workers)
    return Manifest.create(spec, dicts, division)


def _report(folder: str, manifest: "Manifest", summary: "Summary") -> str:
    from ..packed import shard_name

    lines = []
    if summary.failures:
        fault = "are left out or" if manifest.packed else ""
        what = f"images {fault} have no regions".replace("  ", " ")
        lines.append(f"{len(summary.failures)} {what} (failures-*.json), such as")
        lines += [f"  {manifest.path(x.file)}: {x.reason}" for x in summary.failures[:5]]
    for number, count in summary.suspicious.items():
        images = manifest.shard_size(number)
        lines.append(f"WARNING: {count} OF {images} IMAGES OF {shard_name(number)} FAILED")
    if summary.suspicious:
        lines.append("Set the cause right, then run the same command with --retry-failures")
    state = "the store is complete" if summary.complete else "the store is not complete yet"
    there = f"{summary.num_there} of {manifest.num_shards} shards are there"
    lines.append(f"{os.path.abspath(folder)}: {there}, {state}")
    return "\n".join(lines)


def _verdict(folder: str, problems: Sequence["Problem"], manifest: "Manifest") -> str:
    from ..packed import shard_name

    if not problems:
        what = "image and record" if manifest.packed else "record"
        return f"{folder}: every {what} is as it was written and fits its image"
    lines = [f"{shard_name(problem.shard)}: {problem.what}" for problem in problems]
    shards = sorted({problem.shard for problem in problems})
    files = " ".join(os.path.join(folder, f"{shard_name(number)}.*") for number in shards)
    lines.append(f"{len(problems)} problems in {len(shards)} shards. To repair, make these again:")
    lines.append(f"  rm -f {files}")
    lines.append(f"  rmae-d2 {'pack' if manifest.packed else 'regions'} --output {folder}")
    return "\n".join(lines)
