"""The configs' region source: a store first, another source for the rest, and everything said aloud."""

import json
import logging
import multiprocessing
import pickle
import zlib
from functools import partial

import numpy as np
import pytest
from detectron2.config import instantiate
from PIL import Image

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.data.images import read_image
from rmae_d2.errors import StoreError, UserError
from rmae_d2.regions import EncodedRecord, FelzenszwalbSource, RegionRecord, StoredRegions
from rmae_d2.regions.sources import stored

SCALES = (50, 100)


@pytest.fixture(autouse=True)
def _reports_anew():
    """What is said once a process is said once a test."""
    stored._log_once.cache_clear()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Dataset dicts of three photos, named as COCO's, with COCO's ids."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    dicts = []
    for i in range(3):
        name = f"{139 + i:012d}.jpg"
        crop = data.chelsea()[60 * i : 60 * i + 100, 100 : 240 + 10 * i]
        Image.fromarray(crop).save(folder / name)
        dicts.append({"file_name": str(folder / name), "image_id": 139 + i})
    return dicts


def store_of(make_store, folder, dicts, source, key=lambda d: str(d["image_id"]), **options):
    """A store of what the source makes of the images."""
    records, images = {}, {}
    for sample in dicts:
        record = source(sample, read_image(sample["file_name"]))
        records[key(sample)] = record.to_bytes()
        with open(sample["file_name"], "rb") as file:
            images[key(sample)] = file.read()
    options = {"per_shard": 2, "params": source.params, **options}
    return make_store(folder, records, image_bytes=images, **options)


@pytest.fixture(scope="module")
def source():
    return FelzenszwalbSource(SCALES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_store, photos, source):
    return store_of(make_store, tmp_path_factory.mktemp("stored") / "store", photos, source)


def call(regions, sample):
    return regions(sample, read_image(sample["file_name"]))


def same(one, other):
    one = one.decode() if isinstance(one, EncodedRecord) else one
    return np.array_equal(one.labels, other.labels) and one.params == other.params


class NotCalled:
    """A fallback that must not be needed."""

    def __init__(self, params):
        self.params = params

    def __call__(self, dataset_dict, image):
        raise AssertionError(f"asked for {dataset_dict}")


# ------------------------------------------------------------------------------------ equal


def test_records_are_those_of_the_source(folder, photos, source, caplog):
    regions = StoredRegions(folder, NotCalled(source.params))
    for sample in photos:
        record = call(regions, sample)
        assert isinstance(record, EncodedRecord) and same(record, call(source, sample))
    assert regions.params == source.params and str(folder) in repr(regions)
    assert not caplog.records


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_the_same_records(folder, photos, source, method):
    regions = StoredRegions(folder, NotCalled(source.params))
    call(regions, photos[0])
    with multiprocessing.get_context(method).Pool(2) as pool:
        for record, sample in zip(pool.map(partial(call, regions), photos), photos, strict=True):
            assert same(record, call(source, sample))


# ----------------------------------------------------------------------------------- lookup


@pytest.mark.parametrize(
    "key", [lambda d: str(d["image_id"]), lambda d: f"{d['image_id']:012d}.jpg"]
)
@pytest.mark.parametrize("image_id", ["number", "name", "path", "none"])
def test_ids_names_and_numbers_find_the_image(
    tmp_path, make_store, photos, source, caplog, key, image_id
):
    """A store keyed by COCO's ids serves a folder of COCO's files, and the other way round."""
    folder = store_of(make_store, tmp_path / "store", photos, source, key=key)
    regions = pickle.loads(pickle.dumps(StoredRegions(folder, NotCalled(source.params))))
    with caplog.at_level(logging.INFO):
        for sample in photos:
            asked = dict(sample)
            name = f"{sample['image_id']:012d}.jpg"
            if image_id == "none":
                del asked["image_id"]
            else:
                options = {"number": sample["image_id"], "name": name, "path": f"val/{name}"}
                asked["image_id"] = options[image_id]
            assert same(call(regions, asked), call(source, sample))
    exact = {"number": "139", "name": "000000000139.jpg"}.get(image_id) == key(photos[0])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (0 if exact else len(photos))
    assert all("under other names than their ids" in message for message in messages)


def test_another_image_of_the_same_name_is_no_match(tmp_path, make_store, photos, source, caplog):
    """The store's 000000000139.jpg is one photo, the data set's b/000000000139.jpg another."""
    named = [{**sample, "image_id": f"{139 + i:012d}.jpg"} for i, sample in enumerate(photos)]
    folder = store_of(make_store, tmp_path / "store", named, source, key=lambda d: d["image_id"])
    other = tmp_path / "b" / "000000000139.jpg"
    other.parent.mkdir()
    image = read_image(photos[0]["file_name"])
    Image.fromarray(np.ascontiguousarray(image[::-1])).save(other)
    asked = {"file_name": str(other), "image_id": "b/000000000139.jpg"}
    assert same(call(StoredRegions(folder, source), asked), call(source, asked))
    assert "b/000000000139.jpg has no regions in" in caplog.text
    with pytest.raises(StoreError, match="has no regions in .*keys tried: 'b/000000000139.jpg'"):
        call(StoredRegions(folder), asked)


def test_another_image_of_the_same_id_is_reported(folder, photos, tmp_path, caplog):
    """Of the same size, so that nothing else shows it: a re-encoded file, or another data set."""
    other = tmp_path / "another.jpg"
    image = read_image(photos[0]["file_name"])
    Image.fromarray(np.ascontiguousarray(image[::-1])).save(other)
    regions = StoredRegions(folder)
    for _ in range(3):
        assert call(regions, {"file_name": str(other), "image_id": 139}).size == image.shape[:2]
    assert caplog.text.count("REGIONS MAY BE THOSE OF OTHER IMAGES") == 1
    assert str(other) in caplog.text


# ---------------------------------------------------------------------------------- fallback


def test_missing_images_are_reported_ever_more_rarely(folder, photos, source, caplog):
    regions = StoredRegions(folder, source)
    image = read_image(photos[0]["file_name"])
    for i in range(9):
        absent = {"file_name": f"photos/absent{i}.png", "image_id": i}
        assert isinstance(regions(absent, image), RegionRecord)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    assert all(f"{2**i} images so far" in message for i, message in enumerate(messages))
    assert "photos/absent0.png has no regions" in messages[0] and str(folder) in messages[0]
    assert "computed in " in messages[0] and "rmae-d2 regions" in messages[0]


def test_a_store_in_the_making_serves_what_it_has(tmp_path, make_store, photos, source, caplog):
    folder = store_of(make_store, tmp_path / "store", photos, source, only=[1])
    regions = StoredRegions(folder, source)
    assert "1 of 2 shards" in caplog.text
    caplog.clear()
    for sample in photos:
        assert same(call(regions, sample), call(source, sample))
    assert len(caplog.records) == 2 and "1 of 2 shards; to complete it" in caplog.text
    with pytest.raises(StoreError, match="000000000139.jpg has no regions in .*1 of 2 shards"):
        call(StoredRegions(folder), photos[0])


def test_without_a_store_one_warning_says_what_it_costs(photos, source, caplog):
    for _ in range(2):
        regions = StoredRegions(None, source)
    assert isinstance(call(regions, photos[0]), RegionRecord)
    assert same(call(regions, photos[0]), call(source, photos[0]))
    assert regions.params == source.params and repr(regions) == repr(source)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "\n" not in record.getMessage()
    for part in ("0.06 s", "0.8 s", "rmae-d2 regions", "mapper.regions.path=DIR"):
        assert part in record.getMessage()


def test_other_parameters_are_reported_once(folder, caplog):
    for _ in range(2):
        StoredRegions(folder, FelzenszwalbSource((500,)))
    (record,) = caplog.records
    assert "scales [50, 100] (store) and [500] (config)" in record.getMessage()
    assert "sigma" not in record.getMessage()


# ------------------------------------------------------------------------------------ errors


def test_an_image_of_another_size(folder, photos):
    image = read_image(photos[0]["file_name"])
    with pytest.raises(StoreError, match=r"regions-00000.tar \(key '139'\).*\(100, 140\)") as error:
        StoredRegions(folder)(photos[0], image[:50])
    assert "(50, 140)" in str(error.value) and "rmae-d2 regions" in str(error.value)


def test_a_damaged_record(tmp_path, make_store, photos, source):
    folder = store_of(make_store, tmp_path / "store", photos, source)
    regions = StoredRegions(folder, source)
    tar = folder / "regions-00001.tar"
    with open(tar, "r+b") as file:
        file.seek(int(regions.store.shard(1).offsets[0]) + 100)
        file.write(b"damage")
    assert isinstance(call(regions, photos[0]), EncodedRecord)
    with pytest.raises(StoreError, match="record '141' in .*regions-00001.tar is unusable"):
        call(regions, photos[2])


def test_a_forged_index_never_sends_images_to_the_fallback(tmp_path, make_store, photos, source):
    """Its checksum is right, but its records are said to lie in a shard that there is none of."""
    folder = store_of(make_store, tmp_path / "store", photos, source)
    index = np.load(folder / "index.npy")
    good = call(StoredRegions(folder), photos[0]).decode()
    for row, value in ((1, 77), (2, 1 << 40), (3, 1 << 40)):
        forged = index.copy()
        forged[row, 1 + int(index[1, 0]) :] = value
        forged[3, 0] = zlib.crc32(forged[:, 1:].tobytes())
        np.save(folder / "index.npy", forged)
        regions = StoredRegions(folder, NotCalled({}))
        try:
            assert same(call(regions, photos[0]), good)
        except StoreError:
            assert row > 1


def test_no_source_at_all():
    with pytest.raises(StoreError, match="mapper.regions=null"):
        StoredRegions()


# ------------------------------------------------------------------------------------ configs


def config(*overrides):
    return apply_overrides(get_config("demo/rmae_tiny_scenes.py"), list(overrides))


def test_configs_take_a_path(folder, photos):
    cfg = config(f"dataloader.train.mapper.regions.path={folder}")
    mapper = instantiate(cfg.dataloader.train.mapper)
    assert len(mapper.regions.store) == 3
    assert mapper.regions.fallback.scales == (500, 1000, 1500)
    sample = mapper(photos[0])
    assert sample["regions"].any()
    assert instantiate(config("dataloader.train.mapper.regions=null").dataloader.train.mapper)(
        photos[0]
    ).keys() == sample.keys() - {"regions", "num_regions"}


def test_a_path_without_a_store_ends_the_run_before_it_begins(tmp_path):
    cfg = config(f"dataloader.train.mapper.regions.path={tmp_path / 'none'}")
    assert issubclass(StoreError, UserError)
    with pytest.raises(StoreError) as error:
        instantiate(cfg.dataloader.train.mapper)
    for part in (f"mapper.regions.path={tmp_path / 'none'}", "rmae-d2 regions --output"):
        assert part in str(error.value)


def test_every_pretraining_recipe_reads_stores():
    for name, scales in [("rmae_vitb", [500, 1000, 1500]), ("rmae_vitb_imagenet", [1000])]:
        regions = get_config(f"pretrain/{name}.py").dataloader.train.mapper.regions
        assert regions.path is None and regions.fallback.scales == scales
        json.dumps(FelzenszwalbSource(list(regions.fallback.scales)).params)
