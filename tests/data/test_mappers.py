"""From a dataset dict to a pre-training sample: regions follow the picture exactly."""

import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from rmae_d2.data.images import RandomResizedCrop
from rmae_d2.data.mappers import RegionDatasetMapper
from rmae_d2.errors import UserError
from rmae_d2.modeling import IndependentMasking, RandomMasking, RegionGuidedMasking
from rmae_d2.noise import num_visible, random_shuffle
from rmae_d2.regions import EncodedRecord, RegionRecord, pack_bits, patch_coverage, unpack_bits

COLOURS = np.random.default_rng(1).permutation(4096)[:300]
TILES = np.linspace(0, 299, 80).astype(int).reshape(8, 10)


def _paint(labels: np.ndarray) -> np.ndarray:
    """Every label in its own colour: 16 grey levels per channel, 300 colours."""
    codes = COLOURS[labels]
    return np.stack([codes // 256, codes // 16 % 16, codes % 16], -1).astype(np.uint8) * 16


class PaintedSource:
    """Labels up to 299, read back from the colours, and the whole image as an overlapping mask."""

    def __call__(self, dataset_dict, image):
        codes = (image.astype(int) // 16 * [256, 16, 1]).sum(-1)
        labels = np.vectorize({code: label for label, code in enumerate(COLOURS)}.get)(codes)
        whole = np.ones((1, *labels.shape), bool)
        return RegionRecord(labels[None].astype(np.uint8), pack_bits(whole), 1)


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    path = tmp_path_factory.mktemp("painted") / "tiles.png"
    Image.fromarray(_paint(TILES.repeat(32, 0).repeat(32, 1))).save(path)
    return {"file_name": str(path), "image_id": 7, "annotations": []}


def _mapper(**options):
    options = {"augmentations": [RandomResizedCrop(64), T.RandomFlip()], **options}
    return RegionDatasetMapper(**options)


def _seed(seed):
    np.random.seed(seed)
    torch.manual_seed(seed)


def _masks(sample):
    return unpack_bits(sample["regions"].numpy(), sample["num_regions"])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "augmentations",
    [
        [RandomResizedCrop(128), T.RandomFlip()],
        [
            T.ResizeShortestEdge(160, 999),
            T.RandomFlip(prob=1.0),
            T.RandomCrop("absolute", (96, 96)),
        ],
    ],
)
def test_regions_follow_the_picture(painted, seed, augmentations):
    """A region of one colour covers pixels of that colour and no others, away from its edges."""
    _seed(seed)
    sample = _mapper(regions=PaintedSource(), num_regions=12, augmentations=augmentations)(painted)
    image = sample["image"].permute(1, 2, 0).numpy().astype(int)
    palette = _paint(TILES.ravel()).astype(int)
    nearest = np.abs(image[:, :, None] - palette).sum(-1)
    checked = 0
    for mask in _masks(sample):
        inner = mask.copy()
        for _ in range(2):
            inner[1:-1, 1:-1] &= (
                inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
            )
        inner[[0, 1, -2, -1]] = inner[:, [0, 1, -2, -1]] = False
        colours = np.unique(nearest[inner].argmin(-1))
        if not mask.all() and len(colours):
            (colour,) = colours
            outside = ~mask & (nearest[..., colour] == 0)
            assert not outside.any()
            checked += 1
    assert checked >= 6


def test_sample_has_the_agreed_keys_and_the_dict_stays(painted):
    before = copy.deepcopy(painted)
    _seed(0)
    sample = _mapper(regions=PaintedSource())(painted)
    keys = "file_name image_id height width image mask_seed regions num_regions"
    assert set(sample) == set(keys.split())
    assert sample["image"].shape == (3, 64, 64) and sample["image"].dtype == torch.uint8
    assert sample["regions"].shape == (1, 64, 64) and sample["regions"].dtype == torch.uint8
    assert (sample["height"], sample["width"], sample["image_id"]) == (256, 320, 7)
    assert type(sample["mask_seed"]) is int and 0 <= sample["mask_seed"] < 2**63
    assert painted == before


def test_mae_sees_the_same_crops_and_masks(painted):
    _seed(3)
    with_regions = _mapper(regions=PaintedSource())(painted)
    _seed(3)
    without = _mapper()(painted)
    assert "regions" not in without and "num_regions" not in without
    assert torch.equal(without["image"], with_regions["image"])
    assert without["mask_seed"] == with_regions["mask_seed"]


def _source(labels_or_masks):
    def source(dataset_dict, image):
        if labels_or_masks.dtype == bool:
            return RegionRecord.from_masks(labels_or_masks)
        return RegionRecord.from_labels(labels_or_masks)

    return source


def _rows(mapper, painted, seed):
    _seed(seed)
    return sorted(mask.tobytes() for mask in _masks(mapper(painted)))


@pytest.mark.parametrize("num_regions", [1, 8, 9, 19])
def test_choice_without_replacement_where_there_are_enough(painted, num_regions):
    mapper = _mapper(
        regions=PaintedSource(), num_regions=num_regions, augmentations=[T.NoOpTransform()]
    )
    rows = _rows(mapper, painted, 0)
    assert len(rows) == len(set(rows)) == num_regions
    assert rows != _rows(mapper, painted, 1)


def test_regions_with_and_without_replacement(painted):
    """Four of 81 regions: all different, or as often as chance has them."""
    n = 300
    options = {"regions": PaintedSource(), "num_regions": 4, "augmentations": [T.NoOpTransform()]}

    def different(mapper):
        _seed(0)
        drawn = [_masks(mapper(painted)) for _ in range(n)]
        return sum(len({m.tobytes() for m in maps}) == 4 for maps in drawn) / n

    assert different(_mapper(**options)) == 1
    chance = (1 - 1 / 81) * (1 - 2 / 81) * (1 - 3 / 81)
    assert different(_mapper(replacement=True, **options)) == pytest.approx(chance, abs=0.06)


@pytest.mark.parametrize("present", [1, 3, 5, 7])
def test_fewer_regions_are_repeated(painted, present):
    labels = (np.arange(256 * 320) % present).reshape(256, 320)
    mapper = _mapper(regions=_source(labels), augmentations=[T.NoOpTransform()])
    rows = _rows(mapper, painted, 0)
    counts = [rows.count(row) for row in set(rows)]
    assert len(rows) == 8 and max(counts) <= -(-8 // present)
    assert present > 3 or len(counts) == present


def test_no_region_gives_empty_masks(painted):
    mapper = _mapper(regions=_source(np.zeros((0, 256, 320), bool)))
    assert not _masks(mapper(painted)).any()


def test_min_patches(painted):
    labels = np.zeros((256, 320), int)
    labels[:5, :5] = 1  # inside one patch
    labels[0:40, 100:140] = 2
    options = {"regions": _source(labels), "augmentations": [T.NoOpTransform()], "num_regions": 20}
    for min_patches, distinct in ((0, 3), (1, 3), (2, 2), (50, 1)):
        assert len(set(_rows(_mapper(min_patches=min_patches, **options), painted, 0))) == distinct


def test_visible_foreground_only(painted):
    mapper = _mapper(
        regions=PaintedSource(), visible_foreground_only=True, mask_ratio=0.9, num_regions=6
    )
    for seed in range(5):
        _seed(seed)
        sample = mapper(painted)
        order = random_shuffle(torch.tensor([sample["mask_seed"]]), 16)[0]
        visible = order[: num_visible(16, 0.9)].numpy()
        assert patch_coverage(_masks(sample), 16)[:, visible].any(1).all()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("region_mask_ratio", [None, 0.5])
def test_visible_foreground_goes_by_the_models_masks(painted, make_rmae, region_mask_ratio, named):
    """beta_R where it is set, and the region branch's own order with independent masks."""
    for masking in (None, RandomMasking, IndependentMasking):
        mapper = _mapper(
            regions=PaintedSource(),
            visible_foreground_only=True,
            mask_ratio=0.9,
            region_mask_ratio=region_mask_ratio,
            masking=f"{masking.__module__}.{masking.__name__}" if masking and named else masking,
            num_regions=6,
        )
        model = make_rmae(
            (64, 64),
            16,
            regions={"mask_ratio": region_mask_ratio},
            mask_ratio=0.9,
            masking=masking() if masking else None,
        ).eval()
        for seed in range(3):
            _seed(seed)
            sample = mapper(painted)
            with torch.no_grad():
                visible = ~model([sample])[0]["region_mask"].numpy()
            assert visible.sum() == num_visible(16, region_mask_ratio or 0.9)
            assert patch_coverage(_masks(sample), 16)[:, visible].any(1).all()
            shared = random_shuffle(torch.tensor([sample["mask_seed"]]), 16)[0]
            same = visible[shared[: visible.sum()].numpy()].all()
            assert same or masking is IndependentMasking


def test_masks_that_are_no_function_of_the_seed_are_refused(painted):
    for masking in (RegionGuidedMasking, "rmae_d2.modeling.RegionGuidedMasking"):
        with pytest.raises(UserError, match="RegionGuidedMasking.*visible_foreground_only=false"):
            _mapper(visible_foreground_only=True, masking=masking)
        _mapper(masking=masking)


def test_the_same_mapper_with_other_regions(painted):
    mapper = _mapper(regions=PaintedSource())
    _seed(4)
    first = mapper(painted)
    _seed(4)
    other = mapper.with_regions(_source(np.zeros((256, 320), int)))(painted)
    assert torch.equal(first["image"], other["image"])
    assert first["mask_seed"] == other["mask_seed"]
    assert _masks(other).all() and not _masks(first).all()


def test_errors(painted):
    with pytest.raises(ValueError, match="make its regions again"):
        _mapper(regions=_source(np.zeros((10, 10), int)))(painted)
    with pytest.raises(ValueError, match="regions=None"):
        _mapper(num_regions=0)


class OpaqueTransform(T.NoOpTransform):
    """Does nothing, which the mapper cannot know: regions go the plain way, plane by plane."""


class EncodedSource:
    """Regions that follow a photo's pixels: two planes of grey levels, and overlapping masks."""

    def __init__(self, encoded=True, levels=7, masks=3):
        self.encoded, self.levels, self.masks = encoded, levels, masks

    def __call__(self, dataset_dict, image):
        grey = image.mean(-1)
        labels = np.stack([grey * self.levels // 256, grey // 128]).astype(np.int64)
        masks = np.stack([image[..., i % 3] > 60 * i for i in range(self.masks)])
        wide = RegionRecord.from_labels(labels).labels
        record = RegionRecord(wide, pack_bits(masks), len(masks))
        return EncodedRecord(record.to_bytes()) if self.encoded else record


def _assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        same = torch.equal(actual[key], value) if torch.is_tensor(value) else actual[key] == value
        assert same, key


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_regions": 40},
        {"min_patches": 3, "num_regions": 5},
        {"visible_foreground_only": True},
    ],
    ids=str,
)
def test_decoding_the_crop_alone_gives_the_plain_samples(shared_data, options):
    photos = sorted((shared_data / "coco" / "train2017").glob("*.jpg"))[:8]
    assert photos
    augmentations = [RandomResizedCrop(224), T.RandomFlip()]
    fast = _mapper(regions=EncodedSource(), augmentations=augmentations, **options)
    plain = _mapper(
        regions=EncodedSource(encoded=False),
        augmentations=[*augmentations, OpaqueTransform()],
        **options,
    )
    flipped = set()
    for seed in range(12):
        dataset_dict = {"file_name": str(photos[seed % len(photos)]), "image_id": seed}
        samples = []
        for mapper in (fast, plain):
            _seed(seed)
            samples.append(mapper(dataset_dict))
        _assert_equal(*samples)
        _seed(seed)
        transforms = T.AugmentationList(augmentations)(T.AugInput(samples[0]["image"].numpy()[0]))
        flipped.add(isinstance(transforms[1], T.HFlipTransform))
    assert flipped == {True, False}


def test_labels_beyond_a_byte_take_the_same_way(painted):
    samples = []
    for extra in ([], [OpaqueTransform()]):
        _seed(5)
        augmentations = [RandomResizedCrop(96), T.RandomFlip(), *extra]
        source = EncodedSource(levels=100_000)
        samples.append(_mapper(regions=source, augmentations=augmentations)(painted))
    _assert_equal(*samples)


def test_a_sample_in_transport_is_its_bytes(painted):
    mapper = _mapper(
        regions=EncodedSource(), augmentations=[RandomResizedCrop(224), T.RandomFlip()]
    )
    batch = mapper.collate([mapper(painted) for _ in range(8)])
    stacked = sum(x.untyped_storage().nbytes() for x in (batch.images, batch.regions))
    assert stacked == 8 * (3 * 224 * 224 + 224 * 224)
    assert stacked + len(pickle.dumps(batch.facts)) <= 8 * 210_000
