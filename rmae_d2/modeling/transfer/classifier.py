"""Image classification on the pre-training encoder: linear probing, fine-tuning, and plain features.

Recipes: MAE, appendix A.1 and A.2 (tables 9 and 10). Letters: B images, C channels or classes, L patches,
D width, H W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn

from ...errors import UserError
from ..batch import Batch
from ..build import add_rmae_config, encoder_from_cfg, lower_keys
from ..hub import HubModel
from ..pixel_encoder import LayerNorm, MaskedViT, PixelEncoder

MODES = ("linear", "finetune")
POOLS = ("cls", "mean")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class _EncoderModel(nn.Module):
    """An encoder and its image preprocessing."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: PixelEncoder,
        pool: str,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise UserError(f"pool={pool!r}: one of {', '.join(POOLS)}")
        if not len(pixel_mean) == len(pixel_std) == backbone.net.in_chans:
            raise UserError(
                f"{len(pixel_mean)} values in pixel_mean and {len(pixel_std)} in pixel_std "
                f"for a backbone of {backbone.net.in_chans} channels"
            )
        self.backbone = backbone
        self.pool = pool
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: Batch | Sequence[dict[str, Any]]) -> Tensor:
        """Moves to the device and normalises: (B, C, H, W) float32; rejects images of another size."""
        net = self.backbone.net
        expected = (net.in_chans, *net.img_size)
        batch = Batch.of(batched_inputs).to(self.device)
        if tuple(batch.images.shape[1:]) != expected:
            raise UserError(
                f"{batch.facts[0].get('file_name', 'an image')} comes as (C, H, W) = "
                f"{tuple(batch.images.shape[1:])} to a model of {expected}: set the mapper's crop "
                "size or model.backbone.net.img_size"
            )
        return (batch.images.float() - self.pixel_mean) / self.pixel_std

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Computes one vector per image, its cls token or the mean of its patches; (B, D)."""
        tokens = self.backbone.encode_image(images_BCHW)
        return tokens[:, 0] if self.pool == "cls" else tokens[:, 1:].mean(dim=1)


@META_ARCH_REGISTRY.register()
class Classifier(HubModel, _EncoderModel):
    """The encoder and a linear head.

    ``linear`` probes: the encoder is frozen, and its features are batch-normalised, without scale
    and shift, before the head. ``finetune`` trains everything, including the position embedding; with mean
    pooling, a new norm after the pooling, ``fc_norm``, replaces the encoder's final norm.

    Erasing and mixing happen here rather than in the loader: erased pixels are normal noise in normalised
    units, which uint8 cannot hold, and mixing needs the batch. Both draw from the global generators of
    Python, NumPy and torch, which the trainer seeds for each step and rank.

    Args:
        backbone: the pixel encoder; its ``backbone.net.*`` keys match those of pre-training checkpoints.
        num_classes: C.
        mode: ``linear`` or ``finetune``.
        pool: ``cls``, the cls token after the final norm, or ``mean`` of the patches.
        label_smoothing: share of a target that is spread over all classes.
        mixup_alpha, cutmix_alpha: parameters of the Beta distributions of the mixing ratios, 0 to disable
            that kind of mixing; each batch is mixed in one of the two ways.
        random_erasing: fraction of images in which a rectangle is erased.
        pixel_mean, pixel_std: per-channel image statistics in the loader's range (0-255).
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: PixelEncoder,
        num_classes: int,
        mode: str,
        pool: str = "cls",
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        random_erasing: float = 0.0,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__(backbone, pool, pixel_mean, pixel_std)
        if mode not in MODES:
            raise UserError(f"mode={mode!r}: one of {', '.join(MODES)}")
        self.num_classes = num_classes
        self.mode = mode
        self.label_smoothing = label_smoothing
        self.random_erasing = random_erasing
        self.mixup = None
        if mixup_alpha > 0 or cutmix_alpha > 0:
            self.mixup = Mixup(
                mixup_alpha=mixup_alpha,
                cutmix_alpha=cutmix_alpha,
                label_smoothing=label_smoothing,
                num_classes=num_classes,
            )
        dim = backbone.net.embed_dim
        linear = nn.Linear(dim, num_classes)
        nn.init.zeros_(linear.bias)
        self.fc_norm: nn.Module = nn.Identity()
        self.head: nn.Module = linear
        if mode == "linear":
            nn.init.trunc_normal_(linear.weight, std=0.01)
            self.head = nn.Sequential(nn.BatchNorm1d(dim, eps=1e-6, affine=False), linear)
            backbone.requires_grad_(False)
        else:
            # Nearly zero, so that the first steps do not disturb the encoder.
            nn.init.trunc_normal_(linear.weight, std=2e-5)
            backbone.requires_grad_(True)
            if pool == "mean":
                backbone.net.norm = nn.Identity()  # type: ignore[assignment]
                self.fc_norm = LayerNorm(dim)
        self.train()

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Reads the arguments from a yacs config with ``MODEL.CLASSIFIER`` (`add_classifier_config`)."""
        options = lower_keys(cfg.MODEL.CLASSIFIER)
        net = MaskedViT(**encoder_from_cfg(cfg), drop_path_rate=options.pop("drop_path_rate"))
        statistics = {"pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}
        return {"backbone": PixelEncoder(net), **options, **statistics}

    def train(self, mode: bool = True) -> "Classifier":
        """Sets the mode; a frozen encoder stays in evaluation mode, without drop path."""
        super().train(mode)
        if self.mode == "linear":
            self.backbone.eval()
        return self

    def forward(self, batched_inputs: Batch | Sequence[dict[str, Any]]) -> Any:
        """Computes losses or logits, following Detectron2's interface.

        Args:
            batched_inputs: a batch, or dicts of ``image`` (C, H, W) in the loader's range 0-255 and, in
                training, ``label``, an int in [0, C).

        Returns:
            In training ``{"loss_cls": ...}``, the cross-entropy; in evaluation one dict per image with
            ``logits`` (C,) float32.
        """
        batch = Batch.of(batched_inputs)
        images = self.preprocess_image(batch)
        if not self.training:
            return [{"logits": logits} for logits in self.logits(images).float()]
        targets = self._labels(batch.facts)
        images, targets = self._augment(images, targets)
        # Mixed targets are already smoothed.
        smoothing = self.label_smoothing if self.mixup is None else 0.0
        loss = F.cross_entropy(self.logits(images), targets, label_smoothing=smoothing)
        return {"loss_cls": loss}

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """Computes class scores of normalised images, (B, C)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.mode != "linear"):
            features_BD = self.features(images_BCHW)
        return self.head(self.fc_norm(features_BD))

    def _labels(self, facts: Sequence[dict[str, Any]]) -> Tensor:
        labels = [int(x["label"]) for x in facts]
        for label, sample in zip(labels, facts, strict=True):
            if not 0 <= label < self.num_classes:
                raise UserError(
                    f"{sample.get('file_name', 'an image')} has label {label}, the model "
                    f"{self.num_classes} classes: set model.num_classes"
                )
        if self.mode == "linear" and len(labels) < 2:
            raise UserError(
                "linear mode normalises features over the batch, and this one has 1 image per process: "
                "raise dataloader.train.total_batch_size or lower train.grad_accum"
            )
        if self.mixup is not None and len(labels) % 2:
            raise UserError(
                f"mixing pairs the images of a batch, and this one has {len(labels)} per process: change "
                "dataloader.train.total_batch_size, or set model.mixup_alpha=0 model.cutmix_alpha=0"
            )
        return torch.tensor(labels).to(self.device, non_blocking=True)

    def _augment(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Erases, then mixes, as in timm's loader and training loop; targets become (B, C) if mixed."""
        if self.random_erasing > 0:
            erase = RandomErasing(self.random_erasing, mode="pixel", device=images_BCHW.device)
            images_BCHW = erase(images_BCHW)
        return (images_BCHW, labels_B) if self.mixup is None else self.mixup(images_BCHW, labels_B)


class FeatureExtractor(_EncoderModel):
    """The encoder alone, for evaluating its features, e.g. by k-NN. It cannot be trained.

    Args:
        pool: ``cls``, or ``mean`` of the patches; both after the final norm.
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast).
    """

    def __init__(
        self,
        *,
        backbone: PixelEncoder,
        pool: str = "cls",
        precision: str = "fp32",
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__(backbone, pool, pixel_mean, pixel_std)
        if precision not in PRECISIONS:
            raise UserError(f"precision={precision!r}: one of {', '.join(PRECISIONS)}")
        self.dtype = PRECISIONS[precision]

    @classmethod
    def of(cls, model: nn.Module, pool: str = "cls", precision: str = "fp32") -> "FeatureExtractor":
        """Creates one that shares the encoder, pixel statistics and mode of an ``RMAE`` or `Classifier`."""
        of: Any = model
        stats = {name: getattr(of, name).flatten().tolist() for name in ("pixel_mean", "pixel_std")}
        made = cls(backbone=of.backbone, pool=pool, precision=precision, **stats)
        return made.to(of.pixel_mean.device).train(of.training)

    def forward(self, batched_inputs: Batch | Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Returns ``features`` (D,) float32 for each image."""
        if self.training:
            raise RuntimeError("a FeatureExtractor only evaluates: add --eval-only")
        images = self.preprocess_image(batched_inputs)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            features_BD = self.features(images).float()
        return [{"features": features_D} for features_D in features_BD]


def add_classifier_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.CLASSIFIER``, and ``MODEL.RMAE`` for the encoder's size, to a yacs config.

    With ``cfg.MODEL.META_ARCHITECTURE = "Classifier"``, ``build_model(cfg)`` then builds a
    `Classifier`. The defaults are MAE's linear probe of a ViT-B.
    """
    if "RMAE" not in cfg.MODEL:
        add_rmae_config(cfg)
    cfg.MODEL.CLASSIFIER = CfgNode(
        {
            "NUM_CLASSES": 1000,
            "MODE": "linear",
            "POOL": "cls",
            "DROP_PATH_RATE": 0.0,
            "LABEL_SMOOTHING": 0.0,
            "MIXUP_ALPHA": 0.0,
            "CUTMIX_ALPHA": 0.0,
            "RANDOM_ERASING": 0.0,
        }
    )
