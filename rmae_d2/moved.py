"""Locations of modules and names in 0.1: old imports and config.yaml files keep working until 0.3.

Nothing else depends on this file; delete it, its test, and its two calls for 0.3.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: Old and new locations of modules below ``rmae_d2``.
MODULES = {
    "checkpoint.expected": "checkpoint.encoder",
    "checkpoint.files": "files",
    "checkpoint.targets": "checkpoint.names",
    "data.datasets.coco_json": "annotations.coco",
    "data.datasets.scene_crops": "data.scenes.crops",
    "data.datasets.scene_render": "data.scenes.render",
    "data.datasets.scene_shapes": "data.scenes.shapes",
    "data.datasets.scenes": "data.scenes.dataset",
    "data.datasets.image_files": "photos.image_files",
    "data.datasets.label_images": "photos.label_images",
    "data.datasets.listing": "listing",
    "data.jpeg": "data.images",
    "data.loaders": "data.loader",
    "data.prefetch": "data.loader",
    "data.transforms": "data.images",
    "data.worker_errors": "data.loader",
    "demo.downloads": "demo.sessions",
    "demo.queries": "demo.requests",
    "demo.security": "demo.server",
    "demo.uploads": "demo.requests",
    "engine.attention_evaluation": "inference.attention",
    "engine.attention_models": "inference.attention",
    "engine.attention_pictures": "inference.attention",
    "engine.finished_run": "inference.finished_run",
    "engine.interactive_command": "inference.interactive_evaluation",
    "engine.lars": "solver.lars",
    "engine.mask_pictures": "inference.reconstruction_pictures",
    "engine.num_classes": "data.recipes.own_data",
    "engine.optimizer": "solver.optimizer",
    "engine.own_data": "data.recipes.own_data",
    "engine.own_labels": "data.recipes.own_data",
    "engine.predict_command": "inference.prediction_run",
    "engine.predict_inputs": "photos.inputs",
    "engine.prediction_outputs": "inference.prediction_outputs",
    "engine.predictor": "inference.predictor",
    "engine.prompt_patches": "inference.region_prompt",
    "engine.reconstruction_pictures": "inference.reconstruction_pictures",
    "engine.region_command": "commands.regions",
    "engine.region_completion": "inference.region_views",
    "engine.region_jobs": "regions.jobs.run",
    "engine.region_progress": "regions.jobs.run",
    "engine.region_prompt": "inference.region_prompt",
    "engine.region_views": "inference.region_views",
    "engine.start": "engine.launch",
    "evaluation.interactive_baselines": "evaluation.interactive",
    "evaluation.interactive_hints": "evaluation.interactive",
    "inference.predict_inputs": "photos.inputs",
    "modeling.classifier": "modeling.transfer.classifier",
    "modeling.feeding": "modeling.rmae",
    "modeling.learned_masking": "modeling.masking.learned",
    "modeling.mask_generator": "modeling.masking.generator",
    "modeling.masking_baselines": "modeling.masking.baselines",
    "modeling.pictures": "modeling.rmae",
    "modeling.rectangles": "modeling.masking.rectangles",
    "modeling.region_masking": "modeling.masking.regions",
    "modeling.semantic_segmentor": "modeling.transfer.segmentor",
    "modeling.upernet": "modeling.transfer.upernet",
    "modeling.vit": "modeling.transfer.vit",
    "modeling.vit_attention": "modeling.transfer.vit_attention",
    "overrides": "config.overrides",
    "regions.annotations": "regions.sources.annotations",
    "regions.cache": "regions.sources.felzenszwalb",
    "regions.coco_json": "annotations.coco",
    "regions.coco_masks": "annotations.segmentation",
    "regions.codec": "regions.record.codec",
    "regions.companions": "regions.sources.companions",
    "regions.decode_numba": "regions.record.decode_numba",
    "regions.felzenszwalb": "regions.sources.felzenszwalb",
    "regions.fh_numba": "regions.sources.fh_numba",
    "regions.generate": "regions.jobs.generate",
    "regions.manifest": "regions.jobs.manifest",
    "regions.masks": "regions.record.masks",
    "regions.merged_index": "regions.store.store",
    "regions.mixture": "regions.sources.mixture",
    "regions.npy": "regions.sources.npy",
    "regions.planes": "regions.record.record",
    "regions.sam": "regions.sources.sam",
    "regions.sam_json": "regions.sources.sam_json",
    "regions.shards": "regions.store.shards",
    "regions.smooth_numba": "regions.sources.fh_numba",
    "regions.source_spec": "regions.sources.spec",
    "regions.statistics": "regions.record.statistics",
    "regions.stored": "regions.sources.stored",
    "regions.tar_format": "regions.store.shards",
    "visualization.charts": "report.charts",
    "visualization.embedding": "report.report",
    "visualization.interactive": "visualization.curves",
    "visualization.reconstruction_panels": "visualization.reconstruction",
    "visualization.report": "report.report",
    "visualization.run_record": "report.run_record",
}

#: Moved names of packages that still exist: package, name, and new location.
NAMES = {
    ("checkpoint", "CheckpointError"): "errors.CheckpointError",
    ("config", "ConfigError"): "errors.UserError",
    ("data", "DatasetMissingError"): "errors.UserError",
    ("data", "ImageReadError"): "errors.ImageReadError",
    ("data", "TooManySkippedError"): "errors.UserError",
    ("data", "UnreadableImagesError"): "errors.UserError",
    ("data.datasets", "AnnotationError"): "errors.AnnotationError",
    ("data.datasets", "DatasetMissingError"): "errors.UserError",
    ("engine", "PromptError"): "errors.UserError",
    ("evaluation", "EvaluationError"): "errors.UserError",
    ("regions", "RecordError"): "errors.StoreError",
    ("regions", "StoreError"): "errors.StoreError",
    ("evaluation", "COCOEvaluator"): "evaluation.DetectionEvaluator",
    ("evaluation", "LVISEvaluator"): "evaluation.detection.LVISEvaluator",
    ("engine", "ImageEmbedding"): "inference.ImageEmbedding",
    ("engine", "Predictor"): "inference.Predictor",
    ("engine", "RegionPrediction"): "inference.RegionPrediction",
    ("engine", "RegionPrompt"): "inference.RegionPrompt",
    ("engine", "RegionPromptPredictor"): "inference.RegionPromptPredictor",
    ("engine", "LayerDecay"): "solver.LayerDecay",
    ("engine", "adversarial_params"): "solver.adversarial_params",
    ("engine", "lars_params"): "solver.lars_params",
    ("engine", "layer_decayed_params"): "solver.layer_decayed_params",
    ("engine", "linear_rate"): "solver.linear_rate",
    ("engine", "scaled_adamw"): "solver.scaled_adamw",
    ("engine", "scaled_lars"): "solver.scaled_lars",
}


class _Finder(MetaPathFinder, Loader):
    """Imports the new module when an old one is requested."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == "rmae_d2" and name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"rmae_d2.{MODULES[spec.name.removeprefix('rmae_d2.')]}"
        _warn(spec.name, new)
        module = importlib.import_module(new)
        self._spec = module.__spec__  # the import system is about to replace it
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def install() -> None:
    """Makes old module names importable."""
    sys.meta_path.append(_Finder())


def moved_name(package: str, name: str) -> Any:
    """Resolves an old name, for a package's ``__getattr__``.

    Raises:
        AttributeError: if the package never had it.
    """
    new = NAMES.get((package.removeprefix("rmae_d2."), name))
    if new is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    _warn(f"{package}.{name}", f"rmae_d2.{new}")
    place, _, name = new.rpartition(".")
    return getattr(importlib.import_module(f"rmae_d2.{place}"), name)


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes in 0.3", DeprecationWarning, stacklevel=3)
