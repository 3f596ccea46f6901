"""The networks. They know tensors; nothing of files or datasets."""

from .build import add_rmae_config, build_parts, part
from .classifier import PRECISIONS, Classifier, FeatureExtractor, add_classifier_config
from .learned_masking import LearnedMasking, foreground_patches, foreground_shares
from .mask_generator import FrozenViT, MaskDiscriminator, MaskGenerator
from .masking import (
    InformedMasking,
    MaskPlan,
    MaskRequest,
    RandomMasking,
    mask_from_order,
    mask_to_pixels,
    num_visible,
    random_shuffle,
)
from .masking_baselines import (
    AttentionGuidedMasking,
    BlockMasking,
    BoxPriorMasking,
    GridMasking,
)
from .patches import patchify, sincos_position_embedding, unpatchify
from .pixel_decoder import PixelDecoder
from .pixel_encoder import VIT_SIZES, MaskedViT, PixelEncoder, vit_kwargs
from .region_branch import RegionBranch
from .region_masking import IndependentMasking, RegionGuidedMasking
from .region_variants import BatchRegionBranch, ChannelRegionBranch
from .rmae import RMAE
from .semantic_segmentor import MultiScale, SlidingSemanticSegmentor
from .upernet import TapPyramid, UPerNetHead
from .vit import SimpleFeaturePyramid, ViT

__all__ = [
    "PRECISIONS",
    "RMAE",
    "VIT_SIZES",
    "AttentionGuidedMasking",
    "BatchRegionBranch",
    "BlockMasking",
    "BoxPriorMasking",
    "ChannelRegionBranch",
    "FrozenViT",
    "GridMasking",
    "IndependentMasking",
    "InformedMasking",
    "LearnedMasking",
    "MaskDiscriminator",
    "MaskGenerator",
    "MaskPlan",
    "MaskRequest",
    "MaskedViT",
    "PixelDecoder",
    "PixelEncoder",
    "RandomMasking",
    "RegionBranch",
    "RegionGuidedMasking",
    "SimpleFeaturePyramid",
    "ViT",
    "add_rmae_config",
    "build_parts",
    "foreground_patches",
    "foreground_shares",
    "mask_from_order",
    "mask_to_pixels",
    "num_visible",
    "part",
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
