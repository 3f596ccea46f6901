r"""Trains at all points of a grid of overrides, with several seeds each; makes one table and one plot.

    rmae-d2 sweep --config-file pretrain/rmae_vitb.py --output output/ratio --num-gpus 8 \
        model.region_branch.mask_ratio=0.5,0.75,0.9 --seeds 3 --then coco/mask_rcnn_vitdet_b_100ep.py
    rmae-d2 sweep --config-file FILE --output DIR train.seed=7 --seeds 3       no key swept: a mean of runs
    rmae-d2 sweep ... --cluster slurm --partition gpu --time 1440
    rmae-d2 sweep ... --print | xargs -d '\n' -n 1 -P 4 sh -c

Values are separated by commas, except within brackets, braces and quotes. All points are checked
before the first run. Seeds are train.seed, train.seed + 1 ... A run's folder is OUTPUT/POINT-seedN, that of
its second stage (--then) OUTPUT/POINT-seedN-then; its command's output goes to a .txt of that name.

Repeating the command resumes: finished runs are not repeated, unfinished ones are resumed. Failed
runs are named in the table, with the cause, and the exit code is 1. OUTPUT/sweep.md, sweep.json and
sweep.png have the metrics at the end of each run, or of its second stage if there is one.

slurm submits what is not yet in the queue and returns; repeat the command later to gather (the extra slurm).
On a Ray cluster (the extra ray), all nodes need data and output at the same paths.
"""

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from ..config.ranges import COUNT
from . import job_list, options

if TYPE_CHECKING:
    from ..engine.sweep import Run


def arguments(parser: argparse.ArgumentParser) -> None:
    options.config_file(parser, required=True)
    options.output(parser, folder=True, required=True, help="folder of the sweep")
    add = parser.add_argument
    add("--seeds", type=options.integer(COUNT), default=1, metavar="N", help="runs per point")
    add("--metric", metavar="NAME", help="such as bbox/AP (default: the evaluator's main one)")
    add("--then", metavar="FILE", help="config of a second stage, from the first's weights")
    what = "override of the second stage; may be repeated"
    add("--then-set", action="append", default=[], metavar="KEY=VALUE", help=what)
    job_list.arguments(parser)
    options.overrides(parser, "opts", "of the config; KEY=V1,V2 sweeps a key")


def run(args: argparse.Namespace) -> int:
    from ..engine.sweep import plan

    runs = plan(args.config_file, args.opts, args.output, args.seeds, args.then, args.then_set)
    left = [run for run in runs if not run.finished]
    if args.print:
        print("".join(f"{run.line(args.num_gpus)}\n" for run in left), end="")
        return 0
    _show_plan(runs, args)
    causes = job_list.run_all(left, args, lambda run: run.stages[0].folder, _ended)
    from ..engine.sweep_results import choose_metric, measure, results_table, write_results

    measured = [measure(run, causes.get(run.folder, "")) for run in runs]
    metric = choose_metric(measured, args.metric)
    args.output.mkdir(parents=True, exist_ok=True)
    about = {"command": _command(args), "config": args.config_file, "overrides": args.opts}
    about |= {"then": args.then, "then_overrides": args.then_set}
    files = write_results(measured, metric, args.output, about)
    print(f"\n{results_table(measured, metric)}\n\nwritten: {', '.join(map(str, files))}")
    return int(args.cluster != "slurm" and any(one.cause for one in measured))


def _show_plan(runs: "list[Run]", args: argparse.Namespace) -> None:
    points = len(runs) // args.seeds
    print(f"{points} points x {args.seeds} seeds = {len(runs)} runs")
    for run in runs:
        begun = any(stage.begun for stage in run.stages)
        state = "finished" if run.finished else "to go on" if begun else "to run"
        print(f"  {' then '.join(str(stage.folder) for stage in run.stages)}  {state}")
    sys.stdout.flush()


def _ended(run: "Run", cause: str) -> str:
    return f"{run.stages[0].folder}: {cause or 'finished'}"


def _command(args: argparse.Namespace) -> str:
    """Returns the sweep's own command, without options for where its runs ran."""
    words = ["rmae-d2", "sweep", "--config-file", args.config_file, "--output", str(args.output)]
    words += ["--seeds", str(args.seeds), *(["--then", args.then] if args.then else [])]
    for text in args.then_set:
        words += ["--then-set", text]
    return shlex.join([*words, *args.opts])
