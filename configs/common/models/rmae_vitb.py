"""R-MAE with a ViT-B/16, as in the paper: 8 regions from the mapper, one block each in neck, region encoder
and region decoder. ``model.region_branch.neck_depth=8`` is the published code's neck."""

from detectron2.config import LazyCall as L

from rmae_d2.modeling import RMAE, MaskedViT, PixelDecoder, PixelEncoder, RegionBranch, part

model = L(RMAE)(
    backbone=L(PixelEncoder)(
        net=L(MaskedViT)(
            img_size=224,
            patch_size=16,
            in_chans=3,
            embed_dim=768,
            depth=12,
            num_heads=12,
            mlp_ratio=4.0,
            use_act_checkpoint="${oc.select:train.activation_checkpointing,false}",
        )
    ),
    pixel_decoder=part(
        PixelDecoder,
        dim=512,
        depth=8,
        num_heads=16,
        use_act_checkpoint="${oc.select:train.activation_checkpointing,false}",
    ),
    region_branch=part(
        RegionBranch,
        # beta_R; null for the pixels' own ratio, beta_I.
        mask_ratio=None,
        neck_depth=1,
        encoder_dim=128,
        encoder_depth=1,
        encoder_num_heads=8,
        decoder_dim=128,
        decoder_depth=1,
        decoder_num_heads=8,
    ),
    mask_ratio=0.75,
    norm_pix_loss=True,
    pixel_weight=1.0,
    region_weight=1.0,
    background_weight=1.0,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
