r"""Runs a study: several pre-training methods, seeds and transfers, with one page of results.

    rmae-d2 study study/scenes.py
    rmae-d2 study study/scenes.py --records docs/study/study.json --page docs/study.md --jobs 2
    rmae-d2 study study/scenes.py --methods mae rmae --seeds 0 1      some of its runs
    rmae-d2 study study/scenes.py --cluster ray | slurm

A run is a method with a seed: its pre-training, and each transfer from the resulting weights. A run's
results are written to the records as soon as it ends. Repeating the command resumes: recorded runs are not
repeated, even if their folders are gone; unfinished ones are resumed. The page is rebuilt each time.

slurm submits what is not yet in the queue and returns; repeat the command later to gather (the extra slurm).
On a Ray cluster (the extra ray), all nodes need data and output at the same paths.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.ranges import NOT_NEGATIVE
from . import job_list, options

if TYPE_CHECKING:
    from ..engine.sweep import Run
    from ..study.plan import Study
    from ..study.records import Records


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("study", metavar="CONFIG", help="such as study/scenes.py")
    what = "json to resume from and add to (default: study.json in the study's output folder)"
    add("--records", type=Path, metavar="FILE", help=what)
    add("--page", type=Path, metavar="FILE", help="Markdown (default: study.md near the records)")
    add("--methods", nargs="+", default=[], metavar="NAME", help="only these")
    add("--seeds", nargs="+", default=[], type=options.integer(NOT_NEGATIVE), help="only these")
    add("--page-only", action="store_true", help="run nothing: gather results and make the page")
    add("--cost", action="store_true", help="also time the methods' steps, on an idle machine")
    add("--regions", action="store_true", help="also compare the study's region sources")
    job_list.arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ..study.page import write_page
    from ..study.plan import load_study, runs_of
    from ..study.records import Records

    study = load_study(args.study)
    os.environ["DETECTRON2_DATASETS"] = study.data  # also for child processes
    path = args.records or Path(study.output) / "study.json"
    records = Records(path, study)
    runs = runs_of(study, args.methods, args.seeds)
    left = [run for run in runs if records.of(run) is None]
    if args.print:
        print("".join(f"{run.line(args.num_gpus)}\n" for run in left if run.left), end="")
        return 0
    print(f"{study.name}: {len(runs)} runs, {len(runs) - len(left)} of them recorded in {path}")
    for finished in [run for run in left if run.finished]:
        _record(finished, study, records)
    left = [] if args.page_only else [run for run in left if not run.finished]
    if left:
        _render(study)

    def ended(run: "Run", cause: str) -> str:
        if not cause:
            _record(run, study, records)
        return f"{run.values['method']}, seed {run.seed}: {cause or 'recorded'}"

    causes = job_list.run_all(left, args, lambda run: run.left[0].folder, ended)
    if args.cost:
        from .benchmarks.study import measure_cost

        records.set_cost(measure_cost(study))
    if args.regions:
        from ..study.records import measure_region_sources

        records.set_regions(measure_region_sources(study))
    page = args.page or path.with_suffix(".md")
    files = write_page(study, records, page)
    print(f"written: {', '.join(map(str, [path, *files]))}")
    return int(args.cluster != "slurm" and any(causes.values()))


def _render(study: "Study") -> None:
    """Renders the study's data if missing."""
    from ..data.scenes.dataset import write_scenes

    if study.scenes is not None:
        scenes = study.scenes
        folder = Path(study.data) / "scenes"
        write_scenes(folder, scenes.num_train, scenes.num_val, seed=scenes.seed)


def _record(run: "Run", study: "Study", records: "Records") -> None:
    from ..study.records import record_of

    records.add(record_of(run, study))
