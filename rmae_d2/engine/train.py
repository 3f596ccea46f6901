"""Implementation of ``rmae-d2 train``: set up, train, evaluate."""

import argparse
import itertools
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine.hooks import IterationTimer
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import (
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..annotations.coco import forget_annotations
from ..checkpoint import export_backbone, load_pretrained, local_path
from ..config import apply_overrides, load_config, save_config
from ..data import SkipCounter, TrainLoader
from ..data.recipes.own_data import adapt_to_data, data_name, naming
from ..errors import UserError
from ..evaluation import KNNEvaluation, KNNSegmentation, result_sentence
from ..events import EventWriter, read_run, step_values
from ..inference.finished_run import pick_device
from ..inference.prediction_sheet import draw_few_predictions
from ..modeling import RMAE, LearnedMasking, MaskedViT
from ..solver import build_optimizer
from ..visualization import draw_loss_curve, draw_reconstructions
from ..visualization.sheets import save_picture
from .best import FILE as BEST
from .best import KeepBest, NoLongerBetter, check_keep_best
from .checkpointer import Checkpointer, holds_run
from .hooks import (
    EMA,
    CollapseWarning,
    EMAHook,
    Evaluate,
    LRSchedule,
    NoteCache,
    PeriodicCheckpoint,
    Pictures,
    SaveOnSignal,
    WriteMetrics,
)
from .launch import describe_start
from .machine import machine_notes
from .parallel import check_optimizer, gathered_on_main, parallelize, unwrap, whole
from .progress import Profile, StepWriter, WarnOfDataWait
from .provenance import describe_code
from .ring import is_collective_failure
from .run_events import RunEvents, describe_before, write_config
from .run_folder import RunFolder, claim
from .throughput import Peak, compile_model, device_peak, tune_for
from .trackers import TrackedEvents, check_trackers
from .trainer import Trainer

logger = logging.getLogger(__name__)

#: A test loader and the evaluator for the model's outputs on it.
Testing = tuple[Any, DatasetEvaluator]

# Below it, continuing from published weights worked better for users (dinov2, MAE and lightly issue threads).
SMALL_DATASET = 50_000


def main(args: argparse.Namespace) -> Any:
    """Train or evaluate; runs in every process.

    Args:
        args: from Detectron2's ``default_argument_parser``: ``config_file``, ``opts``, ``resume``,
            ``eval_only``; ``profile`` writes a trace of some steps, see `Profile`.

    Returns:
        evaluation results, if anything was evaluated.
    """
    base = load_config(args.config_file)
    cfg = apply_overrides(base, args.opts)
    OmegaConf.set_struct(cfg, False)
    with claim(cfg.train.output_dir, lock=not args.eval_only) as folder:
        if not args.eval_only and not args.resume:
            refuse_to_overwrite(cfg.train.output_dir)
        trackers = check_trackers(cfg.train.get("tracker", ""))
        _setup(cfg, args)
        with RunEvents(cfg.train.output_dir, args, describe_start()) as events:
            if not args.eval_only:
                home = Path(cfg.train.output_dir)
                events.listeners += [TrackedEvents(name, home, events) for name in trackers]
            cfg = adapt_to_data(cfg, args.opts, eval_only=args.eval_only)
            write_config(events, cfg, base, args.config_file)
            if args.eval_only:
                return evaluate_only(cfg, events)
            return train(cfg, args.resume, events, folder, getattr(args, "profile", False))


def _setup(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Set up loggers and seeds like Detectron2's ``default_setup``.

    The environment goes only to log.txt. config.yaml is written when training begins, so that neither an
    evaluation nor a refused resume changes it.
    """
    rank = comm.get_rank()
    os.makedirs(cfg.train.output_dir, exist_ok=True)
    for name in ("fvcore", "detectron2", "rmae_d2"):
        for handler in setup_logger(cfg.train.output_dir, rank, name=name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setLevel(logging.INFO)
                handler.addFilter(_belongs_on_screen)
    logger.debug("environment:\n%s", collect_env_info())
    started = describe_start() if rank else f"{describe_code()}; {describe_start()}"
    logger.info("%s; command line: %s", started, vars(args))
    seed_all_rng(cfg.train.seed + rank)


def _belongs_on_screen(record: logging.LogRecord) -> bool:
    """Keep a traceback off the screen if the error's message, printed last, says everything; log.txt has it.

    The same goes for that of a collective operation, which usually follows from an error elsewhere.
    """
    error = record.exc_info[1] if record.exc_info else None
    says_all = isinstance(error, UserError) or is_collective_failure(error)
    # Detectron2 logs three lines per loader about how it stores its list.
    told = record.name == "detectron2.data.common" and record.levelno < logging.WARNING
    return not (says_all or told or getattr(record, "off_screen", False))


def refuse_to_overwrite(output_dir: str) -> None:
    """Raise UserError if the folder already holds a run."""
    if comm.is_main_process() and holds_run(Path(output_dir)):
        raise UserError(
            f"{output_dir} already holds a run: add --resume (before the overrides) to continue it, or "
            "choose another train.output_dir=..."
        )


def train(
    cfg: DictConfig, resume: bool, events: EventWriter, folder: RunFolder, profile: bool = False
) -> Any:
    """Run the training that a config describes; see `main`."""
    # First: missing data must be reported at once, including those to evaluate on.
    with naming("dataloader.train"):
        loader: TrainLoader = instantiate(cfg.dataloader.train)
    testing = _testing(cfg) if cfg.train.eval_period > 0 else None
    knn = _knn(cfg)
    parts_evaluated = _evaluations(testing, knn)
    check_keep_best(cfg, parts_evaluated)
    forget_annotations()  # gigabytes, of which each reader has kept what it needs
    device = pick_device(cfg.train.device)
    model = instantiate(cfg.model).to(device)
    _check_activation_checkpointing(cfg, model)
    peak = device_peak(device, cfg.train.precision, cfg.train.get("device_tflops", 0.0))
    tune_for(model, device, cfg.train.precision)
    if cfg.train.get("compile"):
        compile_model(model, by_block=cfg.train.get("parallel") == "fsdp")
    setup = {
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "images": loader.dataset_size,
        "images_a_step": loader.total_batch_size,
        "precision": cfg.train.precision,
        "device": str(device),
    }
    events.write("setup", **setup)
    logger.info(
        "%(model)s: %(millions).1f M trainable parameters; %(images)d images; %(images_a_step)d images per "
        "step; %(precision)s on %(device)s",
        {**setup, "millions": setup["parameters"] / 1e6},
    )
    for note in machine_notes(cfg, device):
        logger.warning("%s", note)
    wrapped = parallelize(model, cfg.train, device)
    optimizer = build_optimizer(cfg.optimizer, model)
    check_optimizer(model, optimizer)
    schedule = LRSchedule(optimizer, instantiate(cfg.lr_multiplier))
    output_dir = cfg.train.output_dir
    trainer = Trainer(
        wrapped,
        iter(()),
        optimizer,
        device=device,
        precision=cfg.train.precision,
        grad_accum=cfg.train.grad_accum,
        clip_grad=cfg.train.clip_grad,
        seed=cfg.train.seed,
        log_period=cfg.train.log_period,
        output_dir=output_dir,
        skip_counter=SkipCounter(loader.dataset_size, cfg.train.max_skipped_fraction),
        peak=peak,
    )
    ema = EMA(model, cfg.train.ema.decay) if cfg.train.ema.decay > 0 else None
    parts: dict[str, Any] = {"trainer": trainer} | ({"ema": ema} if ema else {})
    checkpointer = Checkpointer(model, output_dir, **parts)
    start = _begin(cfg, checkpointer, model, loader.dataset_size, resume, events)
    trainer.batches = iter(loader.start(start, device if device.type == "cuda" else None))
    checkpoint = PeriodicCheckpoint(
        checkpointer, cfg.train.checkpointer.period, cfg.train.checkpointer.max_to_keep, events
    )
    best: KeepBest | None = None
    if metric := cfg.train.get("keep_best"):
        best = KeepBest(metric, cfg.train.get("patience", 0), parts_evaluated, checkpoint, events)
        best.restore(start)
    evaluated: dict[str, Any] = {}
    watching = _watching(cfg, model, loader, testing, knn, evaluated, events, best)
    trainer.register_hooks(
        [
            IterationTimer(),
            schedule,
            *_collapse_hooks(model),
            EMAHook(ema) if ema else None,
            checkpoint,
            *watching,
            Profile(Path(output_dir) / "profile") if profile else None,
            NoteCache(loader, events) if loader.cache and comm.is_main_process() else None,
            *_reporting(cfg, peak, evaluated, events),
            SaveOnSignal(checkpoint),
            best,
        ]
    )
    folder.keep()
    if start >= cfg.train.max_iter:
        logger.info("nothing left to train: train.max_iter=%d", cfg.train.max_iter)
        evaluations = [hook for hook in watching if isinstance(hook, Evaluate)]
        _evaluate_what_a_kill_left(evaluations, trainer, start)
    elif best is not None and best.is_over:
        text = "nothing left to train: train.patience=%d has run out, and %s; a larger one goes on"
        logger.info(text, best.patience, best.story)
    else:
        try:
            with suppress(NoLongerBetter):
                trainer.train(start, cfg.train.max_iter)
        except torch.OutOfMemoryError as error:
            raise UserError(out_of_memory(cfg, loader.micro_batch_size, error)) from error
        finally:
            trainer.batches = iter(())  # ends the loader's workers
        _draw_predictions(cfg, model, loader, testing)
    encoder = None
    if isinstance(model, RMAE) and isinstance(model.backbone.net, MaskedViT):
        encoder = gathered_on_main(ema.weights() if ema else model.state_dict())
    if comm.is_main_process():
        _finish(output_dir, encoder)
    return evaluated


def out_of_memory(cfg: DictConfig, micro_batch_size: int, error: BaseException) -> str:
    """Advice for a step that does not fit into GPU memory; suggests only what is not set already."""
    accum = cfg.train.grad_accum
    remedies = [f"train.grad_accum={2 * accum}"] if micro_batch_size > 1 else []
    if not cfg.train.get("activation_checkpointing"):
        remedies.append("train.activation_checkpointing=true")
    if cfg.train.precision == "fp32":
        remedies.append("train.precision=bf16")
    remedies.append("a smaller model.backbone.net.img_size")
    what = str(error).partition(". ")[0]
    return (
        f"{micro_batch_size} images at a time do not fit into the GPU's memory ({what}). Set "
        f"{', or '.join(remedies)}; --resume continues from the last checkpoint"
    )


def _begin(
    cfg: DictConfig,
    checkpointer: Checkpointer,
    model: nn.Module,
    num_images: int,
    resume: bool,
    events: EventWriter,
) -> int:
    """Restore or initialize the weights and write config.yaml; return the first iteration."""
    resumed = checkpointer.resume() if resume else None
    if resume and resumed is None:
        logger.warning(
            "--resume: no checkpoint in %s, starting from the beginning", checkpointer.folder
        )
    if resumed and comm.is_main_process():
        path, start = resumed
        before = describe_before(checkpointer.folder, start)
        events.write("resume", iteration=start, file=path.name, before=before)
        logger.info("%s", before)
    if resumed is None and cfg.train.init_checkpoint:
        with whole(model, write=True) as plain:
            load_pretrained(plain, cfg.train.init_checkpoint)
    elif resumed is None and not isinstance(model, RMAE):
        logger.warning("FROM RANDOM WEIGHTS: train.init_checkpoint is empty")
    elif resumed is None and num_images < SMALL_DATASET:
        logger.warning(
            "%d images are few to pre-train on from random weights: below about %d, begin with published "
            "MAE weights (train.init_checkpoint=FILE)",
            num_images,
            SMALL_DATASET,
        )
    if comm.is_main_process():
        checkpointer.sweep()
        try:
            save_config(cfg, checkpointer.folder / "config.yaml")
        except UserError as error:  # training does not need it
            logger.warning("%s", error)
    return resumed[1] if resumed else 0


def _watching(
    cfg: DictConfig,
    model: nn.Module,
    loader: TrainLoader,
    testing: Testing | None,
    knn: KNNEvaluation | KNNSegmentation | None,
    evaluated: dict[str, Any],
    events: EventWriter,
    best: KeepBest | None,
) -> list[Any]:
    """Hooks for evaluation and pictures, on all ranks."""
    watching: list[Any] = []

    def watch(period: int, part: str, run: Callable[[nn.Module], Any]) -> None:
        def noted() -> Any:
            with whole(model) as plain:
                results = run(plain)
                iteration = get_event_storage().iter
                if results:
                    evaluated.update(results)
                    tell_results(results, data_name(cfg, part), model, events, iteration)
                if best is not None:
                    best.consider(part, results or {}, plain, iteration)
            return results

        watching.append(Evaluate(period, noted))

    if testing is not None:
        watch(cfg.train.eval_period, "dataloader.test", lambda plain: evaluate(plain, *testing))
    if knn is not None:
        watch(knn.period, _evaluations(None, knn)[0], knn)
    if cfg.train.vis_period > 0 and isinstance(model, RMAE):
        watching.append(
            Pictures(
                model,
                lambda: loader.preview(4),
                draw_reconstructions,
                cfg.train.vis_period,
                Path(cfg.train.output_dir) / "reconstruction.png",
            )
        )
    return watching


def _evaluate_what_a_kill_left(evaluations: list[Evaluate], trainer: Trainer, end: int) -> None:
    """Evaluate at the end of a run that was killed between its last step and its last evaluation."""
    found = [e for e in read_run(trainer.output_dir)[0] if e["event"] == "evaluation"]
    missing = sum(e.get("iteration") == end for e in found) < len(evaluations)
    if not comm.all_gather(missing)[0]:  # only the main process is sure to see the folder
        return
    trainer.iter = trainer.max_iter = end
    with EventStorage(end) as trainer.storage:
        for hook in evaluations:
            hook.after_train()
        if comm.is_main_process():
            JSONWriter(str(Path(trainer.output_dir) / "metrics.json")).write()


def _evaluations(testing: Testing | None, knn: KNNEvaluation | KNNSegmentation | None) -> list[str]:
    """The parts of the config whose data are evaluated on."""
    parts = [] if testing is None else ["dataloader.test"]
    if knn is not None:
        parts.append(f"dataloader.knn.{'loader' if isinstance(knn, KNNEvaluation) else 'test'}")
    return parts


def _collapse_hooks(model: nn.Module) -> list[Any]:
    """Hooks that monitor an R-MAE masking policy."""
    return [
        CollapseWarning(m.entropy_floor) for m in model.modules() if isinstance(m, LearnedMasking)
    ]


def _reporting(
    cfg: DictConfig, peak: Peak, evaluated: dict[str, Any], events: EventWriter
) -> list[Any]:
    """Hooks that write numbers, on the main process; second to last, because they read the others' values."""
    if not comm.is_main_process():
        return []
    folder = Path(cfg.train.output_dir)
    writers = [
        StepWriter(events, cfg.train.max_iter, evaluated, peak),
        JSONWriter(str(folder / "metrics.json")),
        TensorboardXWriter(str(folder)),
    ]
    return [
        WarnOfDataWait(
            cfg.dataloader.train.get("num_workers", 0),
            regions=OmegaConf.select(cfg, "dataloader.train.mapper.regions.path", default="")
            is None,
        ),
        WriteMetrics(writers, cfg.train.log_period, events),
    ]


def _draw_predictions(
    cfg: DictConfig, model: nn.Module, loader: TrainLoader, testing: Testing | None
) -> None:
    """Write a detector's or segmentor's ``predictions.png``: on test photos if any, else training photos."""
    if not {"roi_heads", "sem_seg_head"} & {*cfg.model}:
        return
    part = "dataloader.train" if testing is None else "dataloader.test"
    with whole(model) as plain:
        if not comm.is_main_process():
            return
        try:
            batches = (
                loader.preview(4) if testing is None else itertools.chain.from_iterable(testing[0])
            )
            files = [str(sample["file_name"]) for sample in itertools.islice(batches, 4)]
            picture = draw_few_predictions(cfg, plain, files, part)
            save_picture(picture, Path(cfg.train.output_dir) / "predictions.png")
        # A missing picture is no reason to end a run.
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            logger.warning("predictions could not be drawn: %s", error)


def _finish(output_dir: str, encoder: dict[str, Any] | None) -> None:
    """Write the results of a finished run and report where they are.

    Args:
        encoder: weights of a pre-trained model with a plain ViT, averaged if available.
    """
    folder = Path(output_dir)
    made = {"checkpoint": folder / "model_final.pth", "log": folder / "log.txt"}
    if encoder is not None:
        made["backbone for any Detectron2 ViTDet"] = folder / "backbone_final.pth"
        export_backbone(encoder, str(made["backbone for any Detectron2 ViTDet"]))
    if (folder / BEST).exists():
        made["best of all evaluations"] = folder / BEST
    if step_values(read_run(folder)[0]):
        made["loss curve"] = draw_loss_curve(folder, folder / "loss_curve.png")
    if (folder / "reconstruction.png").exists():
        made["reconstructions"] = folder / "reconstruction.png"
    more = ""
    if (folder / "predictions.png").exists():
        made["predictions"] = folder / "predictions.png"
        config, weights = (folder.resolve() / name for name in ("config.yaml", "model_final.pth"))
        more = (
            f"\nmore predictions: rmae-d2 predict --config-file {config} --weights {weights} "
            f"--input PHOTOS --output {folder.resolve() / 'predictions'}"
        )
    width = max(map(len, made)) + 2
    lines = (f"  {name + ':':{width}}{path.resolve()}" for name, path in made.items())
    logger.info("done:\n%s%s", "\n".join(lines), more)


def _testing(cfg: DictConfig) -> Testing | None:
    """Test loader and evaluator, if the config has them."""
    if "evaluator" not in cfg.dataloader:
        return None
    with naming("dataloader.test", "or train without evaluation: train.eval_period=0"):
        return instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)


def _knn(cfg: DictConfig) -> KNNEvaluation | KNNSegmentation | None:
    """The k-NN evaluation of features during pre-training, if the config requests one."""
    node = cfg.dataloader.get("knn")
    if node is None or not node.period:
        return None
    with naming("dataloader.knn", "or train without k-NN: dataloader.knn.period=0"):
        evaluation: KNNEvaluation | KNNSegmentation = instantiate(node)
    return evaluation


def _check_activation_checkpointing(cfg: DictConfig, model: nn.Module) -> None:
    able = any(getattr(module, "use_act_checkpoint", False) for module in model.modules())
    if cfg.train.get("activation_checkpointing") and not able:
        raise UserError(
            f"train.activation_checkpointing=true: no part of this {type(model).__name__} does that. Leave "
            "it out, and where memory is short raise train.grad_accum"
        )


def evaluate(model: nn.Module, loader: Any, evaluator: DatasetEvaluator) -> Any:
    """Run an evaluator over a test loader."""
    results = inference_on_dataset(model, loader, evaluator)
    evaluator.reset()  # it outlives this evaluation; its predictions need not
    return results


def tell_results(
    results: dict[str, Any],
    data: str,
    model: nn.Module,
    events: EventWriter,
    iteration: int | None = None,
) -> None:
    """Log an evaluation's results and its data, and write the event ``evaluation``.

    One sentence per task; except for pre-training tasks, also Detectron2's lines for copying.
    """
    norm_pix_loss = getattr(unwrap(model), "norm_pix_loss", False)
    for task, metrics in results.items():
        said = result_sentence(task, metrics, norm_pix_loss=norm_pix_loss)
        after = "" if iteration is None else f" after iteration {iteration}"
        logger.info("evaluation on %s%s: %s", data or "the test data", after, said)
        if task not in ("reconstruction", "masking", "knn"):
            print_csv_format({task: metrics})
    when = {} if iteration is None else {"iteration": iteration}
    events.write("evaluation", **when, data=data, results=flatten_results_dict(results))


def evaluate_only(cfg: DictConfig, events: EventWriter) -> Any:
    """Evaluate ``train.init_checkpoint``, every tensor of which must fit.

    Raises:
        UserError: the config has no evaluator or names no weights.
    """
    if "evaluator" not in cfg.dataloader:
        raise UserError("--eval-only: this config has no dataloader.evaluator")
    if not cfg.train.init_checkpoint:
        raise UserError(
            "--eval-only needs weights: train.init_checkpoint=OUTPUT_DIR/model_final.pth"
        )
    local_path(cfg.train.init_checkpoint)  # before the data, which take longer
    with naming("dataloader.test"):
        testing = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    model = instantiate(cfg.model).to(pick_device(cfg.train.device))
    load_pretrained(model, cfg.train.init_checkpoint, require_all=True)
    results = evaluate(model.eval(), *testing)
    tell_results(results or {}, data_name(cfg, "dataloader.test"), model, events)
    return results
