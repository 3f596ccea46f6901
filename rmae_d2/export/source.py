"""Sources for export: a run's model or an encoder file, with the accompanying facts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.modeling import GeneralizedRCNN
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from ..checkpoint import load_pretrained, local_path
from ..checkpoint.encoder import load_encoder
from ..data.classification_mapper import ResizeCenterCrop
from ..data.datasets import class_names
from ..deploy.facts import CLASSIFIER, DETECTOR, ENCODER, SEGMENTOR, ModelFacts
from ..errors import UserError
from ..evaluation.classes import classes_of
from ..inference import Predictor
from ..inference.finished_run import config_beside
from ..inference.prediction_outputs import check_class_count, semantic_classes_of
from ..inference.prediction_run import prepared_config
from ..modeling import RMAE, Classifier, FeatureExtractor, SlidingSemanticSegmentor
from ..modeling.transfer.classifier import PIXEL_MEAN, PIXEL_STD


@dataclass(frozen=True)
class Source:
    """A model in evaluation mode on the CPU."""

    model: nn.Module
    facts: ModelFacts
    predictor: Predictor | None = None  #: of a detector or segmentor


def load_source(
    model: str, config_file: str | None = None, overrides: Sequence[str] = ()
) -> Source:
    """Loads a model for export.

    Args:
        model: a run's folder; its weights, with the config.yaml next to them; or any weight file with a
            ViT, whose encoder is then exported.
        config_file: replaces that config.yaml.
        overrides: ``key=value`` for the config.

    Raises:
        UserError: if the model cannot be exported, at all or with its config.
        CheckpointError: if weights are missing or do not fit.
    """
    if "://" not in model and Path(model).expanduser().is_dir():
        model = str(local_path(str(Path(model).expanduser())))
    beside = config_beside(model)
    if config_file is None and beside is None:
        if overrides:
            raise UserError(
                f"{overrides[0]}: there is no config to change beside {model}; name one with --config-file"
            )
        return _encoder(model)
    cfg = prepared_config(config_file or str(beside), overrides)
    cfg.train.device = "cpu"
    built = instantiate(cfg.model)
    if isinstance(built, RMAE | FeatureExtractor):
        return _encoder(model, built)
    kinds = {
        Classifier: _classifier,
        SlidingSemanticSegmentor: _segmentor,
        GeneralizedRCNN: _detector,
    }
    for kind, read in kinds.items():
        if isinstance(built, kind):
            load_pretrained(built, model, require_all=True)
            return read(cfg, built.eval(), model)
    raise UserError(
        f"a {type(built).__name__} cannot be exported: a classifier, segmentor or detector of this package's "
        "configs can, and the encoder of anything that was pre-trained"
    )


def _encoder(path: str, model: Any = None) -> Source:
    """Loads an encoder with the pixel statistics of the pre-training model or, without one, ImageNet's."""
    size, net, _ = load_encoder(path, None if model is None else _heads(model))
    pixels = (PIXEL_MEAN, PIXEL_STD) if model is None else _statistics(model)
    if len(pixels[0]) != size.in_chans:
        raise UserError(f"{path}: an encoder of {size.in_chans} channels, whose mean nothing tells")
    return Source(
        net, ModelFacts(ENCODER, size.img_size, size.patch_size, *pixels, source=_short(path))
    )


def _short(path: str) -> str:
    """Shortens a weight file's path to what is not private."""
    return path if "://" in path else "/".join(Path(path).absolute().parts[-2:])


def _heads(model: Any) -> int:
    return int(model.backbone.net.blocks[0].attn.num_heads)


def _classifier(cfg: DictConfig, model: Any, path: str) -> Source:
    net = model.backbone.net
    node = OmegaConf.select(cfg, "dataloader.test.mapper")
    rules = [] if node is None else list(instantiate(node).augmentations.augs)
    resize = None
    if len(rules) == 1 and isinstance(rules[0], ResizeCenterCrop):
        resize = {"rule": "center_crop", "share": rules[0].crop_share}
    facts = ModelFacts(
        CLASSIFIER,
        net.img_size,
        net.patch_size,
        *_statistics(model),
        resize=resize,
        class_names=_folder_names(cfg, model.num_classes),
        source=_short(path),
    )
    return Source(model, facts)


def _folder_names(cfg: DictConfig, count: int) -> tuple[str, ...]:
    """Returns a classifier's class names if its training data are present; else none."""
    data = OmegaConf.select(cfg, "dataloader.train.dataset") or {}
    try:
        names = class_names(data.get("root"), data.get("split") or "train", data.get("names") or ())
    except UserError:
        return ()
    return tuple(names) if len(names) == count else ()


def _segmentor(cfg: DictConfig, model: Any, path: str) -> Source:
    if model.inference_mode != "slide":
        raise UserError(
            f"model.inference={model.inference_mode} sees images of any shape, and an exported graph has "
            "one: export it with model.inference=slide, which the check compares with"
        )
    if not model.multi_scale.is_plain:
        raise UserError(
            f"test-time augmentation ({model.multi_scale}) is not exported: model.multi_scale=null"
        )
    predictor = Predictor(cfg, model)
    names, first = semantic_classes_of(cfg)
    facts = ModelFacts(
        SEGMENTOR,
        (model.window, model.window),
        _patch_size(model),
        *_statistics(model),
        image_format=predictor.image_format,
        resize=_shortest_edge(predictor),
        class_names=tuple(names),
        first_label=first,
        stride=model.stride,
        source=_short(path),
    )
    return Source(model, facts, predictor)


def _detector(cfg: DictConfig, model: Any, path: str) -> Source:
    predictor = Predictor(cfg, model)
    classes = classes_of(cfg)
    check_class_count(classes, model)
    resize = _shortest_edge(predictor)
    constraints = model.backbone.padding_constraints
    divisor = max(1, constraints.get("size_divisibility", 0), model.backbone.size_divisibility)
    side = constraints.get("square_size", 0)
    if side and side < resize["max_size"]:
        raise UserError(
            f"the test images are up to {resize['max_size']} pixels long, the network's square is {side}: "
            "set dataloader.test.mapper.augmentations.0.max_size"
        )
    side = -(-(side or resize["max_size"]) // divisor) * divisor
    facts = ModelFacts(
        DETECTOR,
        (side, side),
        _patch_size(model),
        *_statistics(model),
        image_format=predictor.image_format,
        resize=resize,
        class_names=tuple(classes.names),
        category_ids=tuple(classes.category_ids),
        class_source=classes.source,
        source=_short(path),
    )
    return Source(model, facts, predictor)


def _statistics(model: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = (tuple(x.flatten().tolist()) for x in (model.pixel_mean, model.pixel_std))
    return mean, std


def _patch_size(model: Any) -> int:
    return int(getattr(getattr(model.backbone, "net", None), "patch_size", 0))


def _shortest_edge(predictor: Predictor) -> dict[str, Any]:
    """Returns the resize rule of the test images if it is Detectron2's usual one."""
    rules = list(predictor.augmentations.augs)
    rule: Any = rules[0] if len(rules) == 1 else None
    lengths: set[int] = set()
    if isinstance(rule, T.ResizeShortestEdge) and rule.interp == Image.Resampling.BILINEAR:
        lengths.update(rule.short_edge_length)
    if len(lengths) != 1:
        raise UserError(
            "dataloader.test.mapper.augmentations: an exported model knows one ResizeShortestEdge of one "
            f"length, bilinear; this config has {predictor.augmentations}"
        )
    return {"rule": "shortest_edge", "length": lengths.pop(), "max_size": int(rule.max_size)}
