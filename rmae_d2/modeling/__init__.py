"""The networks. They know tensors; nothing of files or datasets."""

from .build import add_rmae_config, build_parts
from .classifier import Classifier, FeatureExtractor, add_classifier_config
from .masking import RandomMasking, mask_from_order, mask_to_pixels, num_visible, random_shuffle
from .patches import patchify, sincos_position_embedding, unpatchify
from .pixel_decoder import PixelDecoder
from .pixel_encoder import VIT_SIZES, MaskedViT, PixelEncoder, vit_kwargs
from .region_branch import RegionBranch
from .rmae import RMAE
from .semantic_segmentor import MultiScale, SlidingSemanticSegmentor
from .upernet import TapPyramid, UPerNetHead
from .vit import SimpleFeaturePyramid, ViT

__all__ = [
    "RMAE",
    "VIT_SIZES",
    "MaskedViT",
    "PixelDecoder",
    "PixelEncoder",
    "RandomMasking",
    "RegionBranch",
    "SimpleFeaturePyramid",
    "ViT",
    "add_rmae_config",
    "build_parts",
    "mask_from_order",
    "mask_to_pixels",
    "num_visible",
    "patchify",
    "random_shuffle",
    "sincos_position_embedding",
    "unpatchify",
    "vit_kwargs",
    "Classifier",
    "FeatureExtractor",
    "add_classifier_config",
    "MultiScale",
    "SlidingSemanticSegmentor",
    "TapPyramid",
    "UPerNetHead",
]
