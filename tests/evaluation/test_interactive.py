"""Curves of IoU, the simulated person who clicks, and what needs no model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.errors import UserError
from rmae_d2.evaluation.interactive import (
    Click,
    Curve,
    Target,
    choose_objects,
    clicks_protocol,
    decode,
    fh_segments,
    given_patches,
    hints_of_clicks,
    hints_of_patches,
    iou,
    iou_table,
    next_click,
    patch_order,
    patches_protocol,
    random_walk,
    summary,
)

GRID, P, SIZE = (4, 5), 8, (32, 40)


def rectangle(top, left, bottom, right, size=SIZE):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


NOTHING = np.zeros(SIZE, bool)


class Oracle:
    """Knows the objects; answers with them from the first hint on."""

    def __init__(self, *masks):
        self.masks = masks
        self.seen = []

    def __call__(self, hints):
        self.seen.append([int((h.seeds >= 0).sum()) for h in hints])
        truth = self.masks if len(self.masks) == len(hints) else self.masks * len(hints)
        pairs = zip(truth, hints, strict=True)
        return np.stack([m & bool((h.seeds >= 0).any()) for m, h in pairs])


class TestClicks:
    def test_in_the_middle_of_what_is_missing(self):
        click = next_click(rectangle(4, 6, 9, 17), NOTHING, NOTHING)
        assert click.positive and click.y == 6 and 8 <= click.x <= 14

    @pytest.mark.parametrize(
        ("truth", "found", "spent", "expected"),
        [
            (rectangle(4, 6, 9, 17), rectangle(4, 6, 29, 17), NOTHING, Click(11, 14, False)),
            # The larger circle wins, not the larger area; what is missing before what is too much.
            (
                rectangle(0, 0, 2, 40) | rectangle(10, 10, 17, 17),
                NOTHING,
                NOTHING,
                Click(13, 13, True),
            ),
            (rectangle(2, 2, 7, 7), rectangle(20, 20, 25, 25), NOTHING, Click(4, 4, True)),
            (
                rectangle(2, 2, 9, 9) | rectangle(20, 20, 23, 23),
                *(NOTHING, rectangle(0, 0, 10, 10), Click(21, 21, True)),
            ),
            (rectangle(2, 2, 9, 9), NOTHING, ~NOTHING, None),
            (rectangle(2, 2, 9, 9), rectangle(2, 2, 9, 9), NOTHING, None),
            (rectangle(31, 39, 32, 40), NOTHING, NOTHING, Click(39, 31, True)),
        ],
    )
    def test_where_the_next_one_is(self, truth, found, spent, expected):
        assert next_click(truth, found, spent) == expected

    @given(st.integers(0, 10**6))
    def test_always_on_an_error(self, seed):
        rng = np.random.default_rng(seed)
        truth, found, spent = rng.random((3, 9, 13)) < 0.3
        click = next_click(truth, found, spent)
        wrong = (truth != found) & ~spent
        assert (click is None) == (not wrong.any())
        if click is not None:
            assert wrong[click.y, click.x] and truth[click.y, click.x] == click.positive

    def test_as_hints(self):
        clicks = [Click(9, 1, True), Click(12, 5, False), Click(39, 31, True)]
        hints = hints_of_clicks(clicks, SIZE, GRID, P)
        assert np.argwhere(hints.visible).tolist() == [[0, 1], [3, 4]]
        assert not hints.region[:8].any()  # the later click of a patch counts
        assert hints.region[24:, 32:].all() and hints.region.sum() == 64
        assert [hints.seeds[y, x] for y, x in ((1, 9), (5, 12), (31, 39))] == [1, 0, 1]
        assert (hints.seeds >= 0).sum() == 3


class TestPatches:
    def test_content_is_the_object_s_own(self):
        mask = rectangle(0, 4, 12, 20)
        hints = hints_of_patches(mask, np.array([0, 1, 19]), GRID, P)
        assert np.argwhere(hints.visible).tolist() == [[0, 0], [0, 1], [3, 4]]
        assert np.array_equal(hints.region, mask)
        known = hints.seeds >= 0
        assert np.array_equal(known, rectangle(0, 0, 8, 16) | rectangle(24, 32, 32, 40))
        assert np.array_equal(hints.seeds[known] == 1, mask[known])

    @given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 7))
    def test_an_order_holds_every_patch_once_and_begins_inside(self, seed, rows, columns):
        rng = np.random.default_rng(seed)
        mask = rectangle(10, 10, 30, 30)
        order = patch_order(mask, (rows, columns), P, rng)
        assert sorted(order) == list(range(rows * columns))
        first = hints_of_patches(mask, order[:1], (rows, columns), P)
        assert (first.visible.repeat(P, 0).repeat(P, 1) & first.region).any()

    def test_the_oracle_and_the_floor(self):
        mask = rectangle(3, 4, 19, 30)
        target = [Target(1, 7, mask)]
        counts = (0, 1, 5, 20)
        assert patches_protocol(Oracle(mask), target, GRID, P, counts, 0).tolist() == [[0, 1, 1, 1]]
        floor = patches_protocol(given_patches(None), target, GRID, P, counts, 0)[0]
        assert floor[0] == 0 and floor[3] == 1  # everything is shown in the end
        assert (np.diff(floor) >= 0).all() and 0 < floor[1] < 1

    def test_all_methods_see_the_same(self):
        target = [Target(1, 7, rectangle(3, 4, 19, 30)), Target(1, 8, rectangle(0, 0, 9, 9))]
        first, second, other = (
            patches_protocol(given_patches(None), target, GRID, P, range(9), s) for s in (5, 5, 6)
        )
        assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_clicks_until_all_is_well():
    masks = rectangle(3, 4, 19, 30), rectangle(20, 20, 29, 35)
    oracle = Oracle(*masks)
    targets = [Target(1, k, mask) for k, mask in enumerate(masks)]
    found = clicks_protocol(oracle, targets, GRID, P, (0, 1, 3), by_patches=False)
    assert found.tolist() == [[0, 1, 1], [0, 1, 1]]
    assert oracle.seen == [[0, 0], [1, 1], [1, 1], [1, 1]]  # no click on a perfect mask


def fine_segments(image):
    return fh_segments(image, scale=50)


class TestBaselines:
    def image(self):
        image = np.full((*SIZE, 3), 30, np.uint8)
        image[rectangle(4, 6, 25, 30)] = (200, 120, 40)
        return image

    # FH smooths the image first, so its segments' borders are a pixel or two off.
    @pytest.mark.parametrize(("method", "least"), [(random_walk, 0.9), (fine_segments, 0.6)])
    def test_a_plain_object_takes_a_click_each_side(self, method, least):
        truth = rectangle(4, 6, 25, 30)
        clicks = [Click(15, 12, True), Click(35, 29, False)]
        hints = [hints_of_clicks(clicks[:n], SIZE, GRID, P) for n in range(3)]
        masks = method(self.image())(hints)
        assert not masks[0].any()
        assert iou(masks[1], truth) > least and iou(masks[2], truth) > least

    @pytest.mark.parametrize("method", [random_walk, fine_segments, given_patches])
    @given(seed=st.integers(0, 1000))
    def test_what_is_shown_is_kept(self, method, seed):
        rng = np.random.default_rng(seed)
        truth = rng.random(SIZE) < 0.5
        ids = rng.permutation(20)[: rng.integers(1, 20)]
        hints = hints_of_patches(truth, ids, GRID, P)
        mask = method(self.image())([hints])[0]
        known = hints.seeds >= 0
        assert np.array_equal(mask[known], truth[known])

    def test_a_divided_segment(self):
        segment = fine_segments(np.zeros((*SIZE, 3), np.uint8))  # one segment
        hints = hints_of_clicks([Click(5, 16, True), Click(25, 16, False)], SIZE, GRID, P)
        mask = segment([hints])[0]
        assert mask[16, :15].all() and not mask[16, 16:].any()

    def test_a_large_image_is_walked_small(self):
        image = np.kron(self.image(), np.ones((10, 10, 1), np.uint8))
        hints = hints_of_clicks([Click(150, 120, True)], (320, 400), GRID, P)
        assert iou(random_walk(image)([hints])[0], rectangle(40, 60, 250, 300, (320, 400))) > 0.9


class TestObjects:
    def samples(self):
        def annotation(box, **more):
            x, y, w, h = box
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            return {"bbox": box, "segmentation": [polygon], **more}

        one = [annotation([2 * k, 0, 10 + k, 10]) for k in range(6)]
        two = [
            annotation([0, 0, 2, 2]),
            annotation([0, 0, 40, 32]),
            annotation([0, 0, 20, 16], iscrowd=1),
            {"bbox": [0, 0, 9, 9]},
        ]
        sizes = {"height": SIZE[0], "width": SIZE[1]}
        return [
            {"image_id": 5, "annotations": one, **sizes},
            {"image_id": 6, "annotations": two, **sizes},
        ]

    def test_by_area(self):
        chosen = choose_objects(self.samples(), 0.05, 0.6, 100, 0)
        assert {i: [t.index for t in ts] for i, ts in chosen.items()} == {0: [*range(6)]}
        assert chosen[0][0].mask.sum() == 100 and chosen[0][0].image_id == 5
        assert choose_objects(self.samples(), 0.001, 1, 100, 0)[1][1].mask.all()

    def test_a_random_choice_by_the_seed(self):
        picks = {
            tuple(t.index for t in choose_objects(self.samples(), 0.05, 0.6, 3, seed)[0])
            for seed in (0, 0, 1, 2, 3)
        }
        assert all(len(pick) == 3 for pick in picks) and 1 < len(picks) < 5

    def test_none(self):
        with pytest.raises(UserError, match="none of 8 objects covers 99.0% to 99.5%"):
            choose_objects(self.samples(), 0.99, 0.995, 3, 0)

    def test_every_form_of_mask(self):
        import pycocotools.mask as mask_util

        from rmae_d2.annotations.segmentation import read_mask

        mask = rectangle(3, 4, 19, 30)
        compressed = mask_util.encode(np.asfortranarray(mask))
        counts, run, value = [], 0, False
        for pixel in mask.ravel(order="F"):
            if pixel != value:
                counts, run, value = [*counts, run], 0, pixel
            run += 1
        plain = {"size": list(SIZE), "counts": [*counts, run]}
        for segmentation in (compressed, read_mask(plain, SIZE), [[4, 3, 30, 3, 30, 19, 4, 19]]):
            found = decode({"segmentation": segmentation}, {"height": 32, "width": 40})
            assert np.array_equal(found, mask)


def test_means_and_their_errors():
    curve = Curve((0, 2), np.array([[0.0, 0.5], [0.0, 0.7], [0.0, 0.9]]))
    assert curve.mean.tolist() == pytest.approx([0, 0.7])
    assert curve.standard_error.tolist() == pytest.approx([0, 0.2 / 3**0.5])
    assert Curve((0,), np.ones((1, 1))).standard_error.tolist() == [0]
    targets = [Target(1, k, rectangle(0, 0, 8, 8)) for k in range(3)]
    report = summary({"A": curve}, targets)
    assert report["methods"]["A"] == {"mean_iou": [0, 0.7], "standard_error": [0, 0.1155]}
    assert report["per_object"][2]["iou"] == {"A": [0, 0.9]}
    assert report["per_object"][2]["area_share"] == 0.05
    assert iou_table({"A": curve}, (2,)).splitlines()[2].split() == ["|", "A", "|", "70.0", "|"]
