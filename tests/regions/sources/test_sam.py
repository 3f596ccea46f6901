"""SAM regions with the real library and a small random network."""

import json
import pickle
import sys
from functools import partial

import numpy as np
import pytest
import torch
from skimage import data as photos

from rmae_d2.errors import UserError
from rmae_d2.regions.record.masks import unpack_bits
from rmae_d2.regions.sources.sam import SamSource
from rmae_d2.regions.sources.sam_json import SamJsonSource

segment_anything = pytest.importorskip("segment_anything", reason="pip install 'rmae_d2[sam]'")

SIDE = 64
#: Lets nearly every mask of a random network through.
OPEN = {
    "points_per_side": 4,
    "pred_iou_thresh": -100.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
}


def small_sam(checkpoint=None):
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    grid = (SIDE // 16, SIDE // 16)
    return Sam(
        ImageEncoderViT(
            img_size=SIDE,
            patch_size=16,
            embed_dim=16,
            depth=2,
            num_heads=2,
            out_chans=16,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=2,
            global_attn_indexes=(1,),
        ),
        PromptEncoder(16, grid, (SIDE, SIDE), mask_in_chans=4),
        MaskDecoder(transformer_dim=16, transformer=TwoWayTransformer(1, 16, 2, 32)),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("sam") / "small.pth"
    torch.save(small_sam().state_dict(), file)
    segment_anything.sam_model_registry["small"] = small_sam
    yield file
    del segment_anything.sam_model_registry["small"]


@pytest.fixture(scope="module")
def image():
    return np.ascontiguousarray(photos.astronaut()[:120:2, :160:2])


def small_source(checkpoint, **settings):
    return SamSource(checkpoint, "small", device="cpu", **settings)


@pytest.fixture
def source(checkpoint):
    return small_source(checkpoint, **OPEN)


def masks_of(record):
    return unpack_bits(record.mask_bits, record.num_masks)


def by_library(checkpoint, image, **settings):
    """What the library's generator gives, in its own order."""
    model = small_sam().eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    return segment_anything.SamAutomaticMaskGenerator(model, **settings).generate(image)


def test_masks_are_those_of_the_library_by_falling_area(source, checkpoint, image):
    record = source({}, image)
    expected = [mask["segmentation"] for mask in by_library(checkpoint, image, **OPEN)]
    expected = [mask for mask in expected if mask.any()]
    assert record.num_masks == len(expected) > 20
    areas = masks_of(record).sum((1, 2))
    assert (np.diff(areas) <= 0).all()
    assert sorted(m.tobytes() for m in masks_of(record)) == sorted(m.tobytes() for m in expected)
    assert record.params == source.params


def test_the_network_does_not_travel(source, image):
    first = source({}, image)
    data = pickle.dumps(source)
    assert len(data) < 2000
    np.testing.assert_array_equal(pickle.loads(data)({}, image).mask_bits, first.mask_bits)


def test_max_masks_keeps_the_largest(source, checkpoint, image):
    few = small_source(checkpoint, max_masks=5, **OPEN)({}, image)
    assert few.num_masks == 5 and len(few.mask_bits) == 1
    np.testing.assert_array_equal(masks_of(few), masks_of(source({}, image))[:5])


def test_large_images_are_segmented_at_max_side(checkpoint, image):
    large = np.repeat(np.repeat(image, 4, 0), 4, 1)
    seen = []
    source = small_source(checkpoint, max_side=40, **OPEN)
    small = source._shrunk(large)
    assert small.shape == (30, 40, 3)
    source({}, image)  # builds the generator
    generate = source._generator.generate
    source._generator.generate = lambda image: seen.append(image.shape) or generate(image)
    record = source({}, large)
    assert seen == [(30, 40, 3)]
    assert record.size == large.shape[:2]
    direct = small_source(checkpoint, max_side=None, **OPEN)({}, small)
    np.testing.assert_array_equal(masks_of(record), masks_of(direct).repeat(8, 1).repeat(8, 2))


@pytest.mark.parametrize("layers", [0, 1])
def test_no_mask_is_an_empty_record(checkpoint, image, layers):
    settings = {**OPEN, "pred_iou_thresh": 100.0, "crop_n_layers": layers}
    record = small_source(checkpoint, **settings)({}, image)
    assert record.num_masks == 0 and record.size == image.shape[:2]
    assert len(record.regions()) == 0


def test_crops_and_small_regions(checkpoint, image):
    pytest.importorskip("cv2")
    settings = {**OPEN, "crop_n_layers": 1, "min_mask_region_area": 20}
    record = small_source(checkpoint, **settings)({}, image)
    assert record.num_masks > 0 and record.regions().area.min() >= 1


def test_params_tell_weights_apart(source, tmp_path, image):
    torch.manual_seed(1)
    torch.save(small_sam().state_dict(), tmp_path / "other.pth")
    other = SamSource(tmp_path / "other.pth", "small", device="cpu", **OPEN)
    differing = {key for key in source.params if source.params[key] != other.params[key]}
    assert differing == {"checkpoint"}
    assert json.loads(json.dumps(source.params)) == source.params
    assert other({}, image).to_bytes() != source({}, image).to_bytes()


def test_missing_weights_say_where_to_get_them(tmp_path):
    path = tmp_path / "sam.pth"
    with pytest.raises(UserError) as caught:
        SamSource(path)
    assert str(path) in str(caught.value) and "sam_vit_h_4b8939.pth" in str(caught.value)


def test_weights_of_another_model_are_no_fault_of_the_image(checkpoint, tmp_path, image):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"no weights")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(RuntimeError, match=rf"{name} does not hold the weights of SAM small"):
            SamSource(tmp_path / name, "small", device="cpu", **OPEN)({}, image)


def test_settings_and_images_are_checked(checkpoint, source):
    with pytest.raises(ValueError, match="vit_b"):
        SamSource(checkpoint, "vit_x")
    for wrong in ({"max_side": 0}, {"max_masks": 0}, {"points_per_side": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=0"):
            SamSource(checkpoint, "small", **wrong)
    for shape in ((8, 8), (8, 8, 4)):
        with pytest.raises(ValueError, match="RGB"):
            source({}, np.zeros(shape, np.uint8))


def test_without_the_package_the_error_names_the_extra(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "segment_anything", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"pip install 'rmae_d2\[sam\]'"):
        SamSource(checkpoint)


def test_json_files_of_the_library_give_the_same(tmp_path, checkpoint, source, image):
    masks = by_library(checkpoint, image, **OPEN, output_mode="coco_rle")
    (tmp_path / "sa_1.json").write_text(json.dumps(masks[::-1]))
    record = SamJsonSource(tmp_path)({"file_name": "/photos/sa_1.jpg"}, image)
    np.testing.assert_array_equal(record.mask_bits, source({}, image).mask_bits)
