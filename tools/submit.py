#!/usr/bin/env python
r"""Submits a training run to Slurm, which starts it again where it was when its time was up.

    python tools/submit.py --nodes 4 --gpus-per-node 8 --partition gpu --time 1440 --job-name rmae_b \
        --config-file configs/pretrain/rmae_vitb.py train.output_dir=/shared/runs/rmae_b
    python tools/submit.py --slurm account=vision --slurm qos=low --config-file FILE --resume
    python tools/submit.py --cluster local --config-file configs/demo/rmae_tiny_scenes.py

Needs submitit (pip install 'rmae_d2[slurm]') and a folder that all machines share: the run's output folder
and this checkout. Options come before overrides. The configuration is checked before anything is queued.

--save-before seconds before the time is up, and when the cluster preempts with a warning signal, the run
saves, is queued again, and continues with --resume. scancel saves too, and ends it. A machine that fails
brings the job back to its newest checkpoint. Logs: OUTPUT_DIR/jobs/JOB_ID/JOB_ID_RANK_log.{out,err}.
"""

import sys

from rmae_d2.engine.submit import make_parser, submit
from rmae_d2.errors import UserError

if __name__ == "__main__":
    args = make_parser(__doc__).parse_args()
    try:
        submit(args)
    except UserError as error:
        sys.exit(f"error: {error}")
