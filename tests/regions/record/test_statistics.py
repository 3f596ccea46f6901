import numpy as np
import pytest

from rmae_d2.regions import EncodedRecord, RegionRecord
from rmae_d2.regions.record.statistics import measure


def _encoded(labels):
    return EncodedRecord(RegionRecord.from_labels(labels).to_bytes())


def test_counts_areas_and_bytes_of_known_records():
    halves = np.zeros((100, 100), np.uint8)
    halves[:, 50:] = 1
    speck = np.zeros((100, 100), np.uint8)
    speck[0, :5] = 1  # 0.05 % of the image
    records = [_encoded(halves), _encoded(speck)]
    statistics = measure(records, num_regions=2, crops_per_image=3)
    assert statistics.counts.tolist() == [2, 2]
    assert statistics.sizes.tolist() == [len(record.data) for record in records]
    # 0.05 % in the first class; two halves and 99.95 % in the last.
    assert statistics.areas.tolist() == [1, 0, 0, 0, 0, 0, 3]
    assert len(statistics.crop_counts) == 6
    assert str(statistics).count("%") > 10


def test_few_is_the_share_of_crops_below_k():
    one = np.zeros((64, 64), np.uint8)
    many = (np.arange(64 * 64) // 8 % 200).reshape(64, 64).astype(np.uint8)
    assert measure([_encoded(one)], num_regions=2).few == 1.0
    assert measure([_encoded(many)], num_regions=8).few == 0.0
    assert measure([_encoded(one), _encoded(many)], num_regions=8).few == 0.5


def test_statistics_are_reproducible_and_need_a_record():
    labels = (np.arange(80 * 60) // 37 % 9).reshape(60, 80)
    first, second = (measure([_encoded(labels)], seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.crop_counts, second.crop_counts)
    with pytest.raises(ValueError, match="no record"):
        measure([])
