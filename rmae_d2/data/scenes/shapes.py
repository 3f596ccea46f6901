"""Parametric objects of the embedded "scenes" dataset: outlines and paint, no pixels.

Every category is a function that draws the parameters of one instance (proportions, articulation, colours)
and returns its parts in painter's order. Local frame: x right, y down, about one unit from the centre to
the edge; `render.py` recentres, poses and rasterizes them.
"""

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One painted piece of an object."""

    outline: Points  #: (N, 2) closed polygon, columns x and y, local units
    color: Color  #: red, green, blue in [0, 1]
    texture: float = 0.6  #: how strongly the object's photo texture modulates the paint, in [0, 1]
    height: float = 0.6  #: how far it stands out, in [0, 1]; edges between heights catch light


@dataclass(frozen=True)
class Shape:
    """A category."""

    name: str
    supercategory: str
    build: Callable[[np.random.Generator], list[Part]]  #: draws one instance
    max_rotation: float  #: in either direction, degrees
    airborne: bool = False  #: appears in the upper part of a picture


# --- geometry


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> Points:
    """Ellipse with its first axis rotated by `angle` radians, as (40, 2) points."""
    t = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    x, y = rx * np.cos(t), ry * np.sin(t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([cx + c * x - s * y, cy + s * x + c * y], axis=1)


def polygon(*points: Sequence[float]) -> Points:
    """Straight-edged outline."""
    return np.asarray(points, dtype=np.float64)


def _catmull_rom(p0: Points, p1: Points, p2: Points, p3: Points, steps: int) -> Points:
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[None, :, None]
    a, b, c, d = (p[:, None, :] for p in (p0, p1, p2, p3))
    curve = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
    curve = curve + (3 * b - a - 3 * c + d) * t**3
    return (0.5 * curve).reshape(-1, 2)


def smooth(*points: Sequence[float]) -> Points:
    """Closed Catmull-Rom curve through the points, 8 steps per span."""
    p = polygon(*points)
    return _catmull_rom(np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0), 8)


def curve(*points: Sequence[float]) -> Points:
    """Open Catmull-Rom curve from the first point to the last, 8 steps per span."""
    p = polygon(*points)
    q = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    return np.concatenate([_catmull_rom(q[:-3], q[1:-2], q[2:-1], q[3:], 8), p[-1:]])


def stroke(points: Sequence[Sequence[float]], width: ArrayLike, curved: bool = True) -> Points:
    """Ribbon along a centre line, which is a Catmull-Rom curve if `curved`.

    The full width is one number, or two for a ribbon that tapers from first to last.
    """
    p = curve(*points) if curved else polygon(*points)
    tangent = np.gradient(p, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    ends = np.broadcast_to(np.asarray(width, dtype=np.float64), (2,))
    half = np.linspace(ends[0], ends[1], len(p))[:, None] / 2
    return np.concatenate([p + normal * half, (p - normal * half)[::-1]])


def box(x0: float, y0: float, x1: float, y1: float, corner: float = 0.0) -> Points:
    """Rectangle with its corners cut by `corner`."""
    if corner == 0.0:
        return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    c = corner
    return polygon(
        (x0 + c, y0), (x1 - c, y0), (x1, y0 + c), (x1, y1 - c),
        (x1 - c, y1), (x0 + c, y1), (x0, y1 - c), (x0, y0 + c),
    )  # fmt: skip


def turned(points: Points, angle: float, cx: float = 0.0, cy: float = 0.0) -> Points:
    """The points rotated by `angle` radians about (cx, cy)."""
    c, s = np.cos(angle), np.sin(angle)
    x, y = points[:, 0] - cx, points[:, 1] - cy
    return np.stack([cx + c * x - s * y, cy + s * x + c * y], axis=1)


# --- paint

INK: Color = (0.08, 0.08, 0.10)
WHITE: Color = (0.96, 0.95, 0.92)
WOOD: Color = (0.45, 0.29, 0.16)
GLASS: Color = (0.62, 0.80, 0.90)
LEAF: Color = (0.25, 0.55, 0.20)


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Colour from hue (turns, wraps), saturation and value in [0, 1]."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return r, g, b


def vivid(rng: np.random.Generator) -> Color:
    """A saturated random colour."""
    return hsv(rng.random(), rng.uniform(0.6, 0.95), rng.uniform(0.7, 0.98))


def shaded(color: Color, factor: float) -> Color:
    """The colour darkened (factor < 1) or lightened (> 1)."""
    r, g, b = (min(1.0, c * factor) for c in color)
    return r, g, b


# --- objects
# Outlines are tables, with as many points per line as fit.
# fmt: off


def _eye(cx: float, cy: float, radius: float) -> list[Part]:
    return [Part(ellipse(cx, cy, radius, radius), WHITE, 0.0, 0.8),
        Part(ellipse(cx, cy, 0.55 * radius, 0.55 * radius), INK, 0.0, 0.8)]


def _bird(rng: np.random.Generator) -> list[Part]:
    body = vivid(rng)
    wing = shaded(body, rng.uniform(0.6, 0.8))
    belly = shaded(body, 1.35) if rng.random() < 0.5 else WHITE
    beak = hsv(rng.uniform(0.07, 0.13), 0.9, 0.95)
    fat = rng.uniform(0.30, 0.42)
    lift = rng.uniform(-0.5, 1.25)  # wing: folded (below zero) to raised
    nod = rng.uniform(-0.08, 0.1)
    parts = []
    for foot in (-0.05, 0.15) if lift < 0.5 else ():
        leg = [(foot, fat - 0.1), (foot + 0.02, fat + 0.25), (foot - 0.12, fat + 0.3)]
        parts.append(Part(stroke(leg, 0.05, curved=False), shaded(beak, 0.8), 0.2, 0.3))
    tail = polygon((0.5, -0.12), (1.1, -0.02), (1.15, 0.12), (1.02, 0.16), (0.45, 0.15))
    parts.append(Part(turned(tail, rng.uniform(-0.3, 0.3), 0.5, 0.0), wing, 0.8, 0.3))
    head_x, head_y = -0.58, -0.36 + nod
    parts += [
        Part(polygon((head_x - 0.2, head_y - 0.08), (head_x - 0.52, head_y + 0.05),
            (head_x - 0.2, head_y + 0.1)), beak, 0.1, 0.5),
        Part(smooth((-0.72, -0.2 + nod), (-0.35, -0.42 + nod), (0.2, -fat), (0.62, -0.08), (0.6, 0.08),
            (0.15, fat), (-0.4, fat * 0.8)), body, 0.7, 0.6),
        Part(ellipse(head_x, head_y, 0.27, 0.25), body, 0.5, 0.65),
        Part(smooth((-0.62, 0.0), (-0.3, 0.12), (0.1, fat * 0.6), (0.05, fat * 0.93), (-0.38, fat * 0.7)),
            belly, 0.4, 0.6),
        *_eye(head_x - 0.07, head_y - 0.05, 0.075),
    ]
    feather = smooth((-0.22, 0.05), (0.05, -0.2), (0.5, -0.14), (0.92, 0.06), (0.5, 0.14), (0.05, 0.2))
    parts.append(Part(turned(feather, -lift, -0.1, -0.05), wing, 0.9, 0.95))
    parts.append(Part(turned(feather * 0.6 + (0.05, 0.0), -lift, -0.1, -0.05), shaded(wing, 1.25), 0.9,
        1.0))
    return parts


def _fish(rng: np.random.Generator) -> list[Part]:
    body = vivid(rng)
    fin = shaded(vivid(rng), 0.9)
    h = rng.uniform(0.34, 0.56)
    sweep = rng.uniform(0.1, 0.45)
    parts = [
        Part(smooth((0.5, 0.0), (0.95, -0.2 - sweep), (1.1, -0.15 - sweep), (0.92, 0.0),
            (1.1, 0.15 + sweep), (0.95, 0.2 + sweep)), fin, 0.8, 0.4),
        Part(smooth((-0.35, -h * 0.8), (0.0, -h - rng.uniform(0.15, 0.4)), (0.4, -h * 0.95),
            (0.35, -h * 0.4)), fin, 0.8, 0.4),
        Part(smooth((-0.1, h * 0.8), (0.15, h + rng.uniform(0.1, 0.3)), (0.3, h * 0.9), (0.2, h * 0.5)),
            fin, 0.8, 0.4),
        Part(smooth((-1.0, 0.03), (-0.75, -h * 0.62), (-0.2, -h), (0.35, -h * 0.55), (0.68, -0.1),
            (0.68, 0.1), (0.35, h * 0.55), (-0.2, h), (-0.75, h * 0.62)), body, 0.9, 0.7),
    ]
    stripe = WHITE if rng.random() < 0.5 else shaded(body, 0.45)
    for x in np.linspace(-0.25, 0.4, int(rng.integers(0, 4))):
        reach = 0.86 * h * (1.0 - 1.1 * max(0.0, x) - 0.2 * abs(x))
        parts.append(Part(stroke([(x, -reach), (x + 0.07, 0.0), (x, reach)], 0.13), stripe, 0.6, 0.7))
    parts.append(Part(stroke([(-0.52, -0.22), (-0.44, 0.0), (-0.52, 0.24)], 0.04), shaded(body, 0.5), 0.2,
        0.6))
    parts.append(Part(turned(smooth((-0.2, 0.06), (0.05, 0.02), (0.16, 0.12), (0.05, 0.24)),
        rng.uniform(-0.5, 0.7), -0.2, 0.1), fin, 0.8, 1.0))
    parts += _eye(-0.7, -0.1 * h / 0.4, 0.1)
    bend = rng.uniform(-0.25, 0.25)  # the swimming stroke: the tail swings, the head stays
    for part in parts:
        part.outline[:, 1] += bend * np.maximum(part.outline[:, 0] + 0.3, 0) ** 2
    return parts


def _butterfly(rng: np.random.Generator) -> list[Part]:
    wing, spot = vivid(rng), vivid(rng)
    rim = shaded(wing, 0.35)
    spread = rng.uniform(0.6, 1.0)
    lean = rng.uniform(-0.2, 0.2)
    fore = smooth((0.04, -0.15), (0.35, -0.75), (0.85, -0.95), (1.02, -0.6), (0.75, -0.1), (0.1, 0.05))
    hind = smooth((0.04, 0.0), (0.6, 0.02), (0.82, 0.35), (0.6, 0.75), (0.35, 0.8), (0.08, 0.3))
    parts = []
    for side, width in ((-1.0, spread), (1.0, spread * rng.uniform(0.75, 1.0))):
        for lobe, tilt, centre, color in ((hind, lean, (0.45, 0.38), shaded(wing, 0.85)),
            (fore, -lean, (0.62, -0.5), wing)):
            around = np.array(centre)
            inner = around + (lobe - around) * 0.78
            for outline, paint, height in ((lobe, rim, 0.5), (inner, color, 0.6),
                (ellipse(centre[0] + 0.08, centre[1], 0.13, 0.16), spot, 0.65)):
                placed = turned(outline, tilt) * (width, 1.0) * (side, 1.0)
                parts.append(Part(placed, paint, 0.7, height))
    for sign in (-1.0, 1.0):
        feeler = [(0.0, -0.4), (sign * 0.1, -0.75), (sign * 0.28, -0.95)]
        parts.append(Part(stroke(feeler, 0.05), INK, 0.0, 0.5))
    parts.append(Part(ellipse(0.0, 0.05, 0.085, 0.5), (0.2, 0.13, 0.1), 0.4, 1.0))
    return parts


def _tree(rng: np.random.Generator) -> list[Part]:
    bark = shaded(WOOD, rng.uniform(0.7, 1.2))
    leaf = hsv(rng.choice([0.30, 0.27, 0.22, 0.08]) + rng.uniform(-0.03, 0.03), 0.75,
        rng.uniform(0.45, 0.7))
    lean = rng.uniform(-0.12, 0.12)
    trunk = polygon((-0.16, 1.1), (-0.09, 0.5), (-0.06 + lean, -0.2), (0.06 + lean, -0.2), (0.09, 0.5),
        (0.16, 1.1))
    parts = [Part(trunk, bark, 1.0, 0.4)]
    if rng.random() < 0.4:  # conifer
        levels = int(rng.integers(3, 6))
        for i in range(levels):
            low = 0.75 - 1.3 * i / levels
            half = (0.75 - 0.5 * i / levels) * rng.uniform(0.9, 1.1)
            tip = low - 0.75
            skirt = [(lean - half, low), (lean, tip), (lean + half, low)]
            skirt += [(lean + half * x, low + 0.07 * (k % 2)) for k, x in enumerate((0.6, 0.3, 0.0, -0.3,
                -0.6))]
            parts.append(Part(polygon(*skirt), shaded(leaf, 0.75 + 0.12 * i), 1.0, 0.4 + 0.12 * i))
        return parts
    for sign in (-1.0, 1.0):
        branch = [(0.0, 0.45), (sign * 0.25, 0.1), (sign * 0.4, -0.1)]
        parts.append(Part(stroke(branch, (0.12, 0.06)), bark, 1.0, 0.4))
    wide = rng.uniform(0.75, 1.05)
    turn = rng.uniform(0, 2 * np.pi)
    for i in range(8):  # a crown of leaf clumps around one big clump, those above lighter
        a = turn + 2 * np.pi * i / 8
        x, y, r = lean + 0.5 * wide * np.cos(a), -0.42 + 0.4 * np.sin(a), rng.uniform(0.27, 0.4)
        parts.append(Part(ellipse(x, y, r * wide, r), shaded(leaf, 0.95 - 0.25 * np.sin(a)), 1.0, 0.6))
    parts.append(Part(ellipse(lean, -0.45, 0.45 * wide, 0.4), shaded(leaf, 1.1), 1.0, 0.8))
    return parts


def _flower(rng: np.random.Generator) -> list[Part]:
    petal = vivid(rng)
    bow = rng.uniform(-0.25, 0.25)
    green = shaded(LEAF, rng.uniform(0.8, 1.2))
    stem = [(0.0, -0.4), (bow, 0.3), (0.3 * bow, 1.1)]
    parts = [Part(stroke(stem, (0.09, 0.12)), green, 0.5, 0.3)]
    for sign, at in ((-1.0, rng.uniform(0.3, 0.6)), (1.0, rng.uniform(0.4, 0.8))):
        blade = smooth((0.0, 0.0), (0.25, -0.16), (0.6, -0.05), (0.3, 0.1))
        blade = turned(blade, rng.uniform(-0.7, 0.1)) * (sign, 1.0) + (bow * (1.0 - at) + 0.2 * bow, at)
        parts.append(Part(blade, shaded(green, 1.15), 0.8, 0.5))
    count = int(rng.integers(5, 10))
    long, turn, tilt = rng.uniform(0.4, 0.5), rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.0)
    wide = min(0.24, 1.25 * np.pi * 0.36 / count)
    for i in range(count):
        a = turn + 2 * np.pi * i / count
        one = ellipse(0.36 * np.cos(a), 0.36 * np.sin(a), long * 0.62, wide, a)
        parts.append(Part(one * (1.0, tilt) + (0.0, -0.5), shaded(petal, 0.9 + 0.2 * (i % 2)), 0.5,
            0.6 + 0.1 * (i % 2)))
    heart = hsv(rng.uniform(0.06, 0.15), 0.85, rng.uniform(0.4, 0.95))
    parts.append(Part(ellipse(0.0, -0.5, 0.2, 0.2 * tilt), heart, 1.0, 1.0))
    return parts


def _mushroom(rng: np.random.Generator) -> list[Part]:
    cap = hsv(rng.choice([0.0, 0.03, 0.07, 0.1, 0.75]) + rng.uniform(-0.02, 0.02), 0.8,
        rng.uniform(0.6, 0.9))
    cream = (0.93, 0.88, 0.76)
    tall, thick, dome = rng.uniform(0.7, 1.1), rng.uniform(0.16, 0.28), rng.uniform(0.6, 0.95)
    lean = rng.uniform(-0.15, 0.15)
    parts = [
        Part(smooth((-thick * 0.8 + lean, -0.1), (thick * 0.8 + lean, -0.1), (thick, 0.4 * tall),
            (thick * 1.35, tall * 0.9), (0.0, tall), (-thick * 1.35, tall * 0.9), (-thick, 0.4 * tall)),
            cream, 0.5, 0.4),
        Part(ellipse(lean, 0.0, 0.72, 0.17), shaded(cream, 0.75), 0.8, 0.45),
        Part(smooth((-0.85 + lean, 0.0), (-0.72 + lean, -0.45 * dome), (-0.3 + lean, -0.88 * dome),
            (0.3 + lean, -0.88 * dome), (0.72 + lean, -0.45 * dome), (0.85 + lean, 0.0), (0.4 + lean, 0.06),
            (-0.4 + lean, 0.06)), cap, 0.6, 0.8),
    ]
    if rng.random() < 0.7:
        for x, y in ((-0.5, -0.22), (-0.15, -0.55), (0.28, -0.3), (0.45, -0.52), (0.6, -0.12),
            (-0.12, -0.15)):
            r = rng.uniform(0.06, 0.13)
            parts.append(Part(ellipse(x + lean, y * dome, r, r * 0.8), WHITE, 0.2, 0.95))
    return parts


def _car(rng: np.random.Generator) -> list[Part]:
    body = vivid(rng)
    front, back = rng.uniform(0.3, 0.62), rng.uniform(0.55, 0.98)  # where the cabin starts and ends
    roof = -rng.uniform(0.42, 0.62)
    wheel = rng.uniform(0.19, 0.25)
    bonnet = rng.uniform(-0.12, -0.04)
    a, b = -front, back - 0.15
    shell = polygon((-1.05, 0.25), (-1.08, 0.08), (-1.0, bonnet + 0.04), (a, bonnet - 0.06),
        (a + 0.28, roof), (a + 0.36, roof - 0.04), (b - 0.28, roof - 0.04), (b - 0.2, roof),
        (min(b + 0.12, 1.0), -0.1), (1.02, -0.06), (1.08, 0.1), (1.05, 0.27))
    mid = (a + b) / 2 + 0.03
    window_top, window_low = roof + 0.08, -0.1
    pane = shaded(GLASS, rng.uniform(0.5, 1.05))
    parts = [
        Part(shell, body, 0.35, 0.6),
        Part(polygon((a + 0.1, window_low), (a + 0.32, window_top), (mid - 0.03, window_top),
            (mid - 0.03, window_low)), pane, 0.5, 0.4),
        Part(polygon((mid + 0.03, window_low), (mid + 0.03, window_top), (b - 0.26, window_top),
            (b - 0.06, window_low)), pane, 0.5, 0.4),
        Part(box(-1.04, 0.17, 1.04, 0.27), shaded(body, 0.55), 0.2, 0.6),
        Part(box(mid - 0.015, -0.08, mid + 0.015, 0.16), shaded(body, 0.6), 0.0, 0.55),
        Part(box(mid + 0.08, -0.02, mid + 0.22, 0.02), INK, 0.0, 0.7),
        Part(ellipse(-0.99, 0.06, 0.06, 0.08), (1.0, 0.95, 0.65), 0.0, 0.8),
        Part(box(0.98, 0.0, 1.06, 0.12), (0.85, 0.1, 0.08), 0.0, 0.8),
    ]
    for x in (-0.62, 0.62):
        for scale, paint, height in ((1.0, INK, 0.7), (0.62, (0.75, 0.76, 0.8), 0.8), (0.2, INK, 0.8)):
            parts.append(Part(ellipse(x, 0.27, wheel * scale, wheel * scale), paint, 0.3, height))
    return parts


def _sailboat(rng: np.random.Generator) -> list[Part]:
    hull, cloth = vivid(rng), WHITE if rng.random() < 0.5 else vivid(rng)
    belly = rng.uniform(0.05, 0.3)  # how full the wind blows the sails
    mast = rng.uniform(-0.15, 0.1)
    top = -rng.uniform(0.95, 1.2)
    stripe = shaded(vivid(rng), 0.9)
    main = [(mast + 0.06, top + 0.08), (mast + 0.4 + belly, -0.25), (mast + 0.85, 0.36),
        (mast + 0.06, 0.36)]
    parts = [
        Part(polygon((-0.95, 0.5), (1.0, 0.5), (0.78, 0.92), (-0.62, 0.92)), hull, 0.5, 0.7),
        Part(polygon((-0.95, 0.5), (1.0, 0.5), (0.965, 0.58), (-0.89, 0.58)), WHITE, 0.2, 0.8),
        Part(stroke([(mast, 0.55), (mast, top)], 0.07), WOOD, 0.8, 0.5),
        Part(np.concatenate([curve(*main[:3]), polygon(main[3])]), cloth, 0.5, 0.6),
        Part(stroke([(mast + 0.08, 0.05), (mast + 0.55 + 0.7 * belly, 0.05)], 0.1), stripe, 0.3, 0.6),
        Part(smooth((mast - 0.05, top + 0.25), (mast - 0.35 - 0.6 * belly, -0.1), (-0.82, 0.36),
            (mast - 0.07, 0.34), (mast - 0.04, 0.0)), shaded(cloth, 0.9), 0.5, 0.6),
        Part(polygon((mast, top), (mast + 0.3, top + 0.08), (mast, top + 0.16)), stripe, 0.2, 0.5),
    ]
    return parts


def _balloon(rng: np.random.Generator) -> list[Part]:
    one, two = vivid(rng), WHITE if rng.random() < 0.4 else vivid(rng)
    wide = rng.uniform(0.72, 0.9)
    # Half-width of the envelope from crown to mouth: a round top running straight into the mouth.
    y = np.linspace(-1.05, 0.5, 24)
    t = (y + 1.05) / 1.55
    half = wide * np.where(t < 0.45, np.sqrt(np.clip(1 - ((t - 0.45) / 0.45) ** 2, 0, 1)),
        1 - 0.8 * (np.maximum(t - 0.45, 0.0) / 0.55) ** 1.6)
    parts = []
    for x in (-0.13, 0.13):
        parts.append(Part(stroke([(x * 1.2, 0.48), (x, 0.9)], 0.035), INK, 0.0, 0.3))
    count = int(rng.choice([5, 7, 9]))
    edges = np.sin(np.linspace(-np.pi / 2, np.pi / 2, count + 1))  # gores seen around a sphere
    for i in range(count):
        left, right = edges[i] * half, edges[i + 1] * half
        gore = np.concatenate([np.stack([left, y], 1), np.stack([right, y], 1)[::-1]])
        parts.append(Part(gore, one if i % 2 == 0 else two, 0.6, 0.7 + 0.04 * (i % 2)))
    if rng.random() < 0.5:
        lo, hi = 10, 13
        band = np.concatenate([np.stack([-half, y], 1)[lo:hi], np.stack([half, y], 1)[lo:hi][::-1]])
        parts.append(Part(band, shaded(vivid(rng), 0.9), 0.5, 0.75))
    parts.append(Part(box(-0.17, 0.85, 0.17, 1.1, 0.03), WOOD, 1.0, 0.6))
    parts.append(Part(box(-0.19, 0.83, 0.19, 0.89), shaded(WOOD, 0.6), 0.5, 0.8))
    return parts


def _house(rng: np.random.Generator) -> list[Part]:
    wall = hsv(rng.random(), rng.uniform(0.15, 0.55), rng.uniform(0.75, 0.95))
    roof = hsv(rng.choice([0.0, 0.03, 0.07, 0.6]), rng.uniform(0.5, 0.8), rng.uniform(0.4, 0.7))
    half, eave, peak = rng.uniform(0.65, 0.9), rng.uniform(-0.25, 0.05), rng.uniform(-1.0, -0.65)
    ridge = rng.uniform(0.0, 0.55) * half
    parts = []
    if rng.random() < 0.7:
        x = half * rng.choice([-0.55, 0.55])
        parts.append(Part(box(x - 0.1, peak - 0.05, x + 0.1, eave), (0.55, 0.25, 0.2), 1.0, 0.4))
        parts.append(Part(box(x - 0.13, peak - 0.1, x + 0.13, peak), (0.4, 0.2, 0.17), 0.6, 0.5))
    parts.append(Part(box(-half, eave - 0.05, half, 0.9), wall, 0.9, 0.5))
    parts.append(Part(polygon((-half - 0.15, eave), (-ridge, peak), (ridge, peak), (half + 0.15, eave)),
        roof, 1.0, 0.8))
    door = rng.uniform(-0.35, 0.35) * half
    parts.append(Part(box(door - 0.16, 0.3, door + 0.16, 0.9), shaded(vivid(rng), 0.7), 0.8, 0.4))
    parts.append(Part(ellipse(door + 0.1, 0.62, 0.03, 0.03), (0.95, 0.85, 0.4), 0.0, 0.7))
    lit = (1.0, 0.9, 0.55) if rng.random() < 0.4 else GLASS
    for x in (-0.62 * half, 0.62 * half):
        if abs(x - door) < 0.34:
            continue
        top = eave + 0.18
        parts += [
            Part(box(x - 0.16, top, x + 0.16, top + 0.34), WHITE, 0.1, 0.6),
            Part(box(x - 0.12, top + 0.04, x - 0.015, top + 0.3), lit, 0.3, 0.4),
            Part(box(x + 0.015, top + 0.04, x + 0.12, top + 0.3), lit, 0.3, 0.4),
        ]
    return parts


def _umbrella(rng: np.random.Generator) -> list[Part]:
    one = vivid(rng)
    two = shaded(one, 0.6) if rng.random() < 0.5 else vivid(rng)
    dome, count = rng.uniform(0.6, 0.85), int(rng.choice([5, 6, 7]))
    handle = [(0.0, -0.1), (0.0, 0.5), (0.0, 0.92), (0.09, 1.08), (0.22, 1.04), (0.26, 0.9)]
    parts = [
        Part(stroke(handle, 0.075), shaded(WOOD, 0.9), 0.6, 0.5),
        Part(stroke([(0.0, -dome - 0.18), (0.0, -dome + 0.1)], 0.05), INK, 0.0, 0.5),
    ]
    edges = np.sin(np.linspace(-np.pi / 2, np.pi / 2, count + 1))
    t = np.linspace(0.0, np.pi / 2, 12)
    for i in range(count):
        left = np.stack([edges[i] * np.sin(t), -dome * np.cos(t)], 1)
        right = np.stack([edges[i + 1] * np.sin(t), -dome * np.cos(t)], 1)
        mid = (edges[i] + edges[i + 1]) / 2
        scallop = polygon((0.5 * (mid + edges[i]), -0.07), (mid, -0.1), (0.5 * (mid + edges[i + 1]), -0.07))
        panel = np.concatenate([left, scallop, right[::-1]])
        parts.append(Part(panel, one if i % 2 == 0 else two, 0.5, 0.7 + 0.06 * (i % 2)))
    return parts


def _teapot(rng: np.random.Generator) -> list[Part]:
    glaze = vivid(rng)
    trim = WHITE if rng.random() < 0.5 else shaded(glaze, 0.5)
    fat, lift = rng.uniform(0.5, 0.68), rng.uniform(-0.1, 0.15)
    loop = rng.uniform(0.9, 1.15)
    parts = [
        Part(stroke([(0.42, -0.22), (0.75, -0.42), (loop, -0.2), (0.95, 0.18), (0.5, 0.34)],
            (0.14, 0.1)), glaze, 0.4, 0.4),
        Part(smooth((-0.4, 0.3), (-0.68, 0.08), (-0.86, -0.3 - lift), (-1.08, -0.42 - lift),
            (-0.92, -0.5 - lift), (-0.72, -0.42 - lift), (-0.56, -0.2), (-0.35, -0.1)), glaze, 0.4, 0.45),
        Part(box(-0.36, fat - 0.08, 0.36, fat + 0.06, 0.04), shaded(glaze, 0.7), 0.3, 0.5),
        Part(ellipse(0.0, 0.08, 0.64, fat - 0.02), glaze, 0.5, 0.75),
        Part(stroke([(-0.57, 0.2), (0.0, 0.32), (0.57, 0.2)], 0.09), trim, 0.3, 0.75),
        Part(smooth((-0.36, -0.3), (-0.26, -0.5), (0.0, -0.58), (0.26, -0.5), (0.36, -0.3), (0.0, -0.26)),
            shaded(glaze, 0.85), 0.4, 0.85),
        Part(ellipse(0.0, -0.64, 0.09, 0.09), trim, 0.2, 0.9),
        Part(ellipse(-0.24, -0.08, 0.09, 0.15, 0.5), shaded(glaze, 1.7), 0.0, 0.75),
    ]
    return parts


# fmt: on
SHAPES: tuple[Shape, ...] = (
    Shape("bird", "animal", _bird, 20, airborne=True),
    Shape("fish", "animal", _fish, 40),
    Shape("butterfly", "animal", _butterfly, 180, airborne=True),
    Shape("tree", "plant", _tree, 8),
    Shape("flower", "plant", _flower, 20),
    Shape("mushroom", "plant", _mushroom, 15),
    Shape("car", "vehicle", _car, 14),
    Shape("sailboat", "vehicle", _sailboat, 12),
    Shape("balloon", "vehicle", _balloon, 12, airborne=True),
    Shape("house", "building", _house, 6),
    Shape("umbrella", "household", _umbrella, 50),
    Shape("teapot", "household", _teapot, 20),
)
