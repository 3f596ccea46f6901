"""The picture is what the samples and outputs say, pixel by pixel."""

import numpy as np
import pytest
import torch

from rmae_d2.visualization import draw_reconstructions
from rmae_d2.visualization.sheets import _GAP

_HEADER = 26


def make_sample(size=(128, 192), K=5, channels=3):
    return {
        "image": torch.randint(0, 256, (channels, *size), dtype=torch.uint8),
        "regions": torch.randint(0, 32, (1, *size), dtype=torch.uint8),
        "num_regions": K,
    }


def make_output(size=(128, 192), K=5, channels=3, patch=16):
    L = size[0] * size[1] // patch**2
    return {
        "mask": torch.rand(L) < 0.75,
        "region_mask": torch.rand(L) < 0.5,
        "reconstruction": torch.rand(channels, *size) * 255,
        "region_probability": torch.rand(K, *size),
    }


def tiles_of(picture, size=(128, 192), rows=2):
    """Splits a picture into rows of tiles."""
    height, width = size[0] + _GAP, size[1] + _GAP
    body = picture[_HEADER:, _GAP:]
    assert body.shape[0] == rows * height and body.shape[1] % width == 0
    return [
        [
            body[r * height : (r + 1) * height - _GAP, c * width : (c + 1) * width - _GAP]
            for c in range(body.shape[1] // width)
        ]
        for r in range(rows)
    ]


def test_tiles_show_inputs_masks_and_predictions():
    samples, outputs = [make_sample() for _ in range(2)], [make_output() for _ in range(2)]
    picture = draw_reconstructions(samples, outputs, max_regions=2)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    for tiles, sample, output in zip(tiles_of(picture), samples, outputs, strict=True):
        assert len(tiles) == 3 + 2 * 3
        image = sample["image"].permute(1, 2, 0).numpy()
        assert np.array_equal(tiles[0], image)
        for i in range(8):
            for j in range(12):
                block = np.s_[i * 16 : i * 16 + 16, j * 16 : j * 16 + 16]
                hidden = output["mask"][i * 12 + j]
                assert np.array_equal(
                    tiles[1][block], np.full((16, 16, 3), 128) if hidden else image[block]
                )
                region = tiles[3][block]
                hidden = output["region_mask"][i * 12 + j]
                assert np.array_equal(
                    tiles[4][block], np.full((16, 16, 3), 128) if hidden else region
                )
        assert np.array_equal(tiles[2], output["reconstruction"].round().permute(1, 2, 0).numpy())
        truths = [(sample["regions"][0].numpy() >> k) & 1 for k in range(5)]
        largest = sorted(range(5), key=lambda k: -int(truths[k].sum()))
        for place, k in enumerate(largest[:2]):
            assert np.array_equal(tiles[3 + 3 * place][:, :, 1], truths[k] * 255)
            expected = (output["region_probability"][k] * 255).numpy().astype(np.uint8)
            assert np.array_equal(tiles[5 + 3 * place][:, :, 0], expected)


@pytest.mark.parametrize("absent", ["reconstruction", "region_probability"])
def test_mae_and_rae(absent):
    samples, outputs = [make_sample()], [make_output()]
    for key in {"reconstruction": ["reconstruction"]}.get(
        absent, ["region_probability", "region_mask"]
    ):
        del outputs[0][key]
    picture = draw_reconstructions(samples, outputs, max_regions=1)
    assert len(tiles_of(picture, rows=1)[0]) == (5 if absent == "reconstruction" else 3)


def test_one_channel_is_gray_and_small_images_are_enlarged():
    size = (32, 32)
    picture = draw_reconstructions(
        [make_sample(size, channels=1)], [make_output(size, channels=1, patch=8)], max_regions=9
    )
    rows = tiles_of(picture, size=(128, 128), rows=1)
    assert len(rows[0]) == 3 + 5 * 3  # five regions are all there are
    tile = rows[0][0]
    assert (tile[:, :, 0] == tile[:, :, 1]).all() and (tile[:4, :4] == tile[0, 0]).all()


def test_titles_are_drawn_and_fit():
    picture = draw_reconstructions([make_sample()], [make_output()])
    header = picture[:_HEADER]
    for column in range(3 + 3 * 3):
        tile = header[:, 6 + column * 198 : (column + 1) * 198]
        assert (tile < 128).any(axis=(0, 2)).sum() > 10
        assert not (tile[:, 140:] < 128).any()


def test_mask_probabilities_are_shown_where_there_are_some():
    """The highest is white, 0 is black, a patch has one colour."""
    output = make_output()
    probability = torch.zeros(96)
    probability[5], probability[40] = 0.75, 0.25
    output["mask_probability"] = probability
    picture = draw_reconstructions([make_sample()], [output], max_regions=1)
    (tiles,) = tiles_of(picture, rows=1)
    assert len(tiles) == 4 + 3
    heat = tiles[1].reshape(8, 16, 12, 16, 3).transpose(0, 2, 1, 3, 4).reshape(96, 256, 3)
    assert (heat == heat[:, :1]).all()
    brightness = heat[:, 0].astype(int).sum(axis=1)
    assert brightness[5] == 3 * 255 and 0 < brightness[40] < brightness[5]
    rest = [i for i in range(96) if i not in (5, 40)]
    assert brightness[rest].max() < 20
