"""Charts for pages: well-formed, unique ids, the page's colours, the same each time."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import get_data_path
from PIL import ImageFont

from rmae_d2.report.charts import MAX_POINTS, draw_chart, thin, tick_labels

VALUES = [(i, 1 / (i + 1)) for i in range(1000)]


def test_stands_in_a_page():
    curves = [("a", VALUES), ("b", VALUES[::9])]
    chart = draw_chart(curves, "some-name", legend=True)
    assert chart == draw_chart(curves, "some-name", legend=True)
    root = ET.fromstring(chart)
    assert root.tag == "svg" and "width" not in root.attrib and "viewBox" in root.attrib
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert ids and len(set(ids)) == len(ids) and all(i.startswith("some-name-") for i in ids)
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', chart)
    assert used and set(used) <= set(ids)
    for absent in ("<style", "http", "#01020", "#01030", "DejaVu"):
        assert absent not in chart
    for colour in ("var(--c0)", "var(--c1)", "var(--rule)", "currentColor"):
        assert colour in chart


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "points",
    [
        [(0, 1.0)],
        [(0, math.nan)],
        [(0, math.inf), (1, 2.0), (2, -math.inf)],
        [(0, 1e-300), (1, 1e300)],
        [(5, 0.0), (5, 0.0)],
        [(1e15, -1.0), (2e15, -1.0)],
    ],
)
def test_every_curve_gives_a_chart(points):
    chart = draw_chart([("$x_$ <b>&'\"", points)], "x", legend=True, may_be_log=True)
    texts = [e.text for e in ET.fromstring(chart).iter("text")]
    assert "$x_$ <b>&'\"" in texts and "iteration" in texts


def test_several_orders_of_magnitude():
    points = [(0, 1e-4), (1, 1.0), (2, 1000.0)]
    charts = [draw_chart([("a", points)], "x", may_be_log=log) for log in (False, True)]
    texts = [[e.text for e in ET.fromstring(chart).iter("text")] for chart in charts]
    assert "0.01" not in texts[0] and {"0.01", "1", "100"} <= set(texts[1])
    assert "mathdefault" not in str(texts)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=2000))
def test_thinned_curves_keep_their_range(values):
    bins = thin(list(enumerate(values)))
    assert len(bins) <= MAX_POINTS
    finite = [v for v in values if math.isfinite(v)]
    lows = [low for _, _, low, _ in bins if math.isfinite(low)]
    highs = [high for _, _, _, high in bins if math.isfinite(high)]
    assert (min(lows), max(highs)) == (min(finite), max(finite)) if finite else lows == []
    assert all(not low > mean + 1e-6 and not mean > high + 1e-6 for _, mean, low, high in bins)


@pytest.mark.parametrize(
    "ticks, labels",
    [
        ([0.4, 0.6, 0.8], "0.4 0.6 0.8"),
        ([0, 2500, 5000], "0 2500 5000"),
        ([0, 5e-5, 1e-4, 1.5e-4], "0 5.0e-5 1.0e-4 1.5e-4"),
        ([1.000e-5, 1.002e-5], "1.000e-5 1.002e-5"),
        ([0.812346, 0.812348], "0.812346 0.812348"),
        ([61234, 61236], "61234 61236"),
        ([1e6, 2e6], "1e6 2e6"),
        ([-1e300, 1e300], "-1e300 1e300"),
        ([], ""),
    ],
)
def test_labels_of_ticks_need_no_offset(ticks, labels):
    assert " ".join(tick_labels(ticks)) == labels


@pytest.mark.parametrize("scale", [1e-9, 1e-5, 1.0, 61234.0, 1e9])
def test_labels_have_room(scale):
    """Beside the axis, and nothing stands above it, where it would be cut."""
    points = [(12_345 * i, scale * (1 + i / 10_000)) for i in range(100)]
    root = ET.fromstring(draw_chart([("a", points)], "x"))
    width = float(root.attrib["viewBox"].split()[2])
    measure = ImageFont.truetype(get_data_path() + "/fonts/ttf/DejaVuSans.ttf", 9).getlength
    texts = list(root.iter("text"))
    assert len(texts) > 8
    for text in texts:
        size = measure(text.text)
        left = float(text.attrib["x"]) - size * (1 if "end" in text.attrib["style"] else 0.5)
        assert left > 0 and left + size < width and float(text.attrib["y"]) > 7, text.text
