"""The networks. They handle tensors only, never files or datasets."""

from ..noise import num_visible, random_shuffle
from .batch import Batch
from .build import add_rmae_config, build_parts, part
from .hiera import HieraStages, MaskedHiera
from .masking.base import (
    MaskingPolicy,
    MaskPlan,
    MaskRequest,
    RandomMasking,
    mask_from_order,
    mask_to_pixels,
)
from .masking.baselines import (
    AttentionGuidedMasking,
    BlockMasking,
    BoxPriorMasking,
    GridMasking,
)
from .masking.generator import FrozenViT, MaskDiscriminator, MaskGenerator
from .masking.learned import LearnedMasking, foreground_patches
from .masking.regions import IndependentMasking, RegionGuidedMasking
from .masking.windows import WindowMasking
from .patches import patchify, sincos_position_embedding, unpatchify
from .pixel_decoder import PixelDecoder
from .pixel_encoder import VIT_SIZES, MaskedViT, PixelEncoder, vit_kwargs
from .region_branch import RegionBranch
from .region_variants import BatchRegionBranch, ChannelRegionBranch
from .rmae import RMAE, StepResult
from .transfer.classifier import PRECISIONS, Classifier, FeatureExtractor, add_classifier_config
from .transfer.hiera_pyramid import HieraPyramid
from .transfer.segmentor import MultiScale, SlidingSemanticSegmentor
from .transfer.upernet import TapPyramid, UPerNetHead
from .transfer.vit import SimpleFeaturePyramid, ViT

__all__ = [
    "PRECISIONS",
    "RMAE",
    "VIT_SIZES",
    "AttentionGuidedMasking",
    "Batch",
    "BatchRegionBranch",
    "BlockMasking",
    "BoxPriorMasking",
    "ChannelRegionBranch",
    "FrozenViT",
    "GridMasking",
    "HieraPyramid",
    "HieraStages",
    "IndependentMasking",
    "LearnedMasking",
    "MaskDiscriminator",
    "MaskGenerator",
    "MaskPlan",
    "MaskRequest",
    "MaskingPolicy",
    "MaskedHiera",
    "MaskedViT",
    "PixelDecoder",
    "PixelEncoder",
    "RandomMasking",
    "RegionBranch",
    "RegionGuidedMasking",
    "SimpleFeaturePyramid",
    "StepResult",
    "ViT",
    "WindowMasking",
    "add_rmae_config",
    "build_parts",
    "foreground_patches",
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
