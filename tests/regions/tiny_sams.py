"""Real networks of SAM, SAM 2 and SAM 3 with few and random weights, as folders of transformers."""

import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3ImageProcessor,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3VideoConfig,
    Sam3VideoModel,
    SamConfig,
    SamImageProcessor,
    SamModel,
)

from tests.helpers import jittered

SIDE = 64  # of the square that a network sees; SAM 3's patches want another
SIDE_3 = 56
_DECODER = {
    **{"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "iou_head_hidden_dim": 16,
}
_MEMORY = {
    **{"memory_attention_hidden_size": 16, "memory_attention_num_layers": 1},
    **{"memory_attention_feed_forward_hidden_size": 16, "memory_encoder_hidden_size": 16},
    **{"memory_encoder_output_channels": 8, "mask_downsampler_embed_dim": 16},
    **{"memory_fuser_num_layers": 1, "memory_fuser_embed_dim": 16},
    "memory_fuser_intermediate_dim": 16,
}


def _parts(vision, side, patch):
    prompts = {"hidden_size": 16, "image_size": side, "patch_size": patch, "mask_input_channels": 4}
    return {
        "vision_config": vision,
        "prompt_encoder_config": prompts,
        "mask_decoder_config": _DECODER,
    }


def _sam():
    vision = {
        **{"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "patch_size": 8},
        **{"num_attention_heads": 2, "image_size": SIDE, "window_size": 2, "num_pos_feats": 8},
        "global_attn_indexes": [1],
    }
    return SamModel(SamConfig(**_parts(vision, SIDE, 8)))


def _sam2_parts():
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 2, 2, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = {
        **{"backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8]},
        **{"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 16},
    }
    return _parts(vision, SIDE, 16)


def _sam3_parts():
    backbone = AutoConfig.for_model(
        "sam3_vit_model",
        **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "window_size": 2},
        **{"num_attention_heads": 2, "image_size": SIDE_3, "patch_size": 14},
        **{"global_attn_indexes": [1], "pretrain_image_size": 28},
    )
    vision = {
        **{"backbone_config": backbone, "fpn_hidden_size": 16},
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }
    return _parts(vision, SIDE_3, 14)


def _sam3_video():
    """With its detector, which is asked in words."""
    tracker = Sam3TrackerConfig(**_sam3_parts()).to_dict()
    layer = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {
        **{"model_type": "clip_text_model", "vocab_size": 50, "hidden_size": 16},
        **{"intermediate_size": 16, "projection_dim": 16, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "max_position_embeddings": 8},
    }
    detector = {
        **{"model_type": "sam3", "vision_config": tracker["vision_config"], "text_config": text},
        **{"geometry_encoder_config": layer, "detr_encoder_config": layer},
        "detr_decoder_config": {**layer, "num_queries": 4},
        "mask_decoder_config": {"hidden_size": 16, "num_attention_heads": 2},
    }
    tracker |= {"model_type": "sam3_tracker_video", "image_size": SIDE_3, **_MEMORY}
    return Sam3VideoModel(Sam3VideoConfig(detector_config=detector, tracker_config=tracker))


_MODELS = {
    "sam": _sam,
    "sam2": lambda: Sam2Model(Sam2Config(**_sam2_parts())),
    "sam2_video": lambda: Sam2VideoModel(
        Sam2VideoConfig(
            **_sam2_parts(), image_size=SIDE, memory_attention_rope_feat_sizes=[4, 4], **_MEMORY
        )
    ),
    "sam3_tracker": lambda: Sam3TrackerModel(Sam3TrackerConfig(**_sam3_parts())),
    "sam3_video": _sam3_video,
}


#: Noise on the weights that makes masks differ, some of them sure and stable.
_NOISE = {"sam": 0.6}


def write_sam(kind, folder, seed=0):
    """A network of a kind of `sam.KINDS` in a new folder, which is returned; as the hub has it."""
    torch.manual_seed(seed)
    model = jittered(_MODELS[kind](), _NOISE.get(kind, 0.3))
    model.config.save_pretrained(folder)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    _processor(kind).save_pretrained(folder)
    return folder


def _processor(kind):
    if kind == "sam":
        return SamImageProcessor(
            size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}
        )
    if kind.startswith("sam2"):
        return Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})
    return Sam3ImageProcessor(size={"height": SIDE_3, "width": SIDE_3})
