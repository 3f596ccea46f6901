"""Adapt configs to images with many bands: the model's channels, and their mean and standard deviation."""

import logging
from collections.abc import Sequence

import numpy as np
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from ...errors import UserError
from ...photos.bands import moments_of, statistics_of
from ...photos.reading import Photo

logger = logging.getLogger(__name__)

#: Number of images, evenly spaced, on which mean and deviation are measured.
_MEASURED = 64
_CHANNELS = "model.backbone.net.in_chans"
_STATISTICS = ("model.pixel_mean", "model.pixel_std")
#: The keys set here.
KEYS = (_CHANNELS, *_STATISTICS)


def adapt_bands(cfg: DictConfig, given: Sequence[str] = ()) -> None:
    """Set a config's model, in place, to the number of channels of its training images.

    Only with ``dataloader.train.mapper.all_bands=true``. Mean and standard deviation are measured; missing
    data, NaN, are ignored. A model with other than three channels and statistics for all is left unchanged.

    Args:
        given: keys set by the user, which are kept.

    Raises:
        UserError: an image has other bands than the first one, or ``in_chans`` is set to another number.
    """
    if not OmegaConf.select(cfg, "dataloader.train.mapper.all_bands"):
        return
    channels = OmegaConf.select(cfg, _CHANNELS)
    if channels not in (None, 3) and channels == len(OmegaConf.select(cfg, _STATISTICS[0])):
        return  # a run's own config.yaml
    files = [sample["file_name"] for sample in instantiate(cfg.dataloader.train.dataset)]
    some = files[:: -(-len(files) // _MEASURED)]
    mean, std = statistics_of((f, moments_of(np.asarray(Photo(f, all_bands=True)))) for f in some)
    if _CHANNELS in given and channels != len(mean):
        raise UserError(
            f"{_CHANNELS}={channels} contradicts {files[0]}, which has {len(mean)} "
            "bands: leave it out, the number follows the data"
        )
    OmegaConf.update(cfg, _CHANNELS, len(mean), force_add=True)
    for key, values in zip(_STATISTICS, (mean, std), strict=True):
        if key not in given:
            OmegaConf.update(cfg, key, [float(f"{value:.6g}") for value in values])
    logger.info(
        "images have %d bands, as %s: %s=%d, and of %d images measured %s=%s %s=%s",
        *(len(mean), files[0], _CHANNELS, len(mean), len(some)),
        *(part for key in _STATISTICS for part in (key, OmegaConf.select(cfg, key))),
    )
