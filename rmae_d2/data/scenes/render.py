"""Renders one image of the embedded "scenes" dataset, with the exact mask of every object.

A scene is a pure function of (seed, index): photographs from the scikit-image wheel make the background and
the textures; objects from `scene_shapes.SHAPES` stand in front of it, posed, lit from one side and
overlapping. Letters: H W pixels, N objects. Frame: x right, y down, in pixels.
"""

from colorsys import hsv_to_rgb
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...errors import UserError
from .shapes import SHAPES, Points, Shape

Floats = NDArray[np.float32]

# Photographs contained in the wheel itself (none that pooch would download), with their licences as
# stated by scikit-image: file -> (stuff class, licence and author).
PHOTOS: dict[str, tuple[str, str]] = {
    "astronaut.png": ("photograph", "public domain, NASA"),
    "chelsea.png": ("photograph", "CC0, Stefan van der Walt"),
    "coffee.png": ("photograph", "CC0, Rachel Michetti"),
    "rocket.jpg": ("photograph", "public domain, SpaceX"),
    "camera.png": ("photograph", "CC0, Lav Varshney"),
    "hubble_deep_field.jpg": ("stars", "public domain, NASA"),
    "grass.png": ("grass", "CC0, linolafett"),
    "gravel.png": ("gravel", "CC0, cc0textures.com"),
    "brick.png": ("brick", "CC0, cc0textures.com"),
}
GROUNDS = ("grass.png", "gravel.png", "brick.png")  # grey textures that suit a floor
BACKDROPS = tuple(name for name in PHOTOS if name not in GROUNDS)
_TINTS = {  # colours for the grey textures, as the values of their mean grey
    "grass.png": ((0.36, 0.50, 0.20), (0.45, 0.52, 0.24), (0.55, 0.50, 0.28)),
    "gravel.png": ((0.52, 0.48, 0.44), (0.60, 0.50, 0.38), (0.45, 0.47, 0.52)),
    "brick.png": ((0.60, 0.32, 0.25), (0.62, 0.52, 0.42), (0.46, 0.44, 0.44)),
}

THING_CLASSES: tuple[str, ...] = tuple(shape.name for shape in SHAPES)
STUFF_CLASSES: tuple[str, ...] = ("photograph", "stars", "grass", "gravel", "brick")

# (H, W) of the images: none is square, and some are not multiples of 16.
SIZES: tuple[tuple[int, int], ...] = (
    (192, 256), (192, 256), (192, 224), (224, 192), (256, 192), (180, 240), (208, 256),
)  # fmt: skip

SUPERSAMPLING = 4  # outlines are drawn at four times the resolution: 16 levels of coverage
MIN_VISIBLE_AREA = 24  # pixels
_MIN_VISIBLE_FRACTION = 0.3  # of the object's own area; an object hidden further is moved elsewhere
_PLACEMENTS = 12  # positions tried before an object is left out


def _category(number: int, name: str, group: str, isthing: int) -> dict[str, Any]:
    # Colours for the catalog, with hues a golden section apart.
    color = hsv_to_rgb(0.61803 * number % 1.0, 0.75, 0.9 - 0.2 * (number % 2))
    of = {"id": number + 1, "name": name, "supercategory": group, "isthing": isthing}
    return {**of, "color": [int(255 * channel) for channel in color]}


# COCO's panoptic style: things 1..12, then stuff. Semantic PNGs hold id - 1.
CATEGORIES: tuple[dict[str, Any], ...] = (
    *(_category(i, shape.name, shape.supercategory, 1) for i, shape in enumerate(SHAPES)),
    *(_category(i, name, "background", 0) for i, name in enumerate(STUFF_CLASSES, len(SHAPES))),
)
_STUFF_IDS = {
    photo: len(THING_CLASSES) + 1 + STUFF_CLASSES.index(name) for photo, (name, _) in PHOTOS.items()
}


@dataclass(frozen=True)
class Scene:
    """One rendered image and its ground truth."""

    image: NDArray[np.uint8]  #: (H, W, 3) RGB
    #: (N, H, W), the visible pixels of each object, nearest object first; disjoint. A pixel belongs to the
    #: nearest object that covers at least half of it.
    masks: NDArray[np.bool_]
    category_ids: NDArray[np.int64]  #: (N,), ids of `CATEGORIES`
    background_ids: NDArray[
        np.uint8
    ]  #: (H, W), ids of `CATEGORIES` (stuff), also behind the objects
    photos: tuple[str, ...]  #: files of the wheel that appear in the background

    def semantic(self) -> NDArray[np.uint8]:
        """(H, W) contiguous class of every pixel: `THING_CLASSES`, then `STUFF_CLASSES`; none is ignored."""
        labels = self.background_ids - 1
        for mask, category_id in zip(self.masks, self.category_ids, strict=True):
            labels[mask] = category_id - 1
        return labels.astype(np.uint8)


def render_scene(seed: int, index: int) -> Scene:
    """Render scene `index` (0 or more) of the stream given by `seed` (0 or more). Pure.

    Between 3 and 8 objects are tried. One without a place where it is visible is left out, so every object in
    the picture is annotated.

    Raises:
        UserError: The installed scikit-image lacks one of the photographs.
    """
    rng = np.random.default_rng((seed, index))
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    angle = rng.uniform(-0.85, -0.15) * np.pi  # towards the light, always from above
    light = np.array([np.cos(angle), np.sin(angle)])

    image, background_ids, photos = _background(rng, height, width)
    count = int(rng.integers(3, 9))
    placed, masks = _arrange(rng, count, height, width, light)
    darkness = rng.uniform(0.3, 0.55)
    for sprite in reversed(placed):
        _cast_shadow(image, sprite, light, darkness)
        _paste(image, sprite)
    exposed = image * rng.uniform(0.92, 1.06) + rng.normal(0.0, 0.008, image.shape)
    return Scene(
        image=(np.clip(exposed, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8),
        masks=np.stack(masks),
        category_ids=np.array([sprite.category_id for sprite in placed], dtype=np.int64),
        background_ids=background_ids,
        photos=photos,
    )


# --- background


def photo_path(name: str) -> Path:
    """The path of one of `PHOTOS` in the scikit-image wheel; UserError if the installed one lacks it."""
    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise UserError(
            f"{path}: the installed scikit-image lacks this photograph; install the wheel from PyPI "
            "(python -m pip install --force-reinstall scikit-image)"
        )
    return path


@cache
def _photo(name: str) -> Image.Image:
    with Image.open(photo_path(name)) as image:
        return image.convert("RGB")


@cache
def _tile(name: str) -> Image.Image:
    """A ground texture mirrored to twice its size, to be large enough for a floor."""
    grey = np.asarray(_photo(name))
    wide = np.concatenate([grey, grey[:, ::-1]], axis=1)
    return Image.fromarray(np.concatenate([wide, wide[::-1]], axis=0))


def _floats(image: Image.Image) -> Floats:
    return np.asarray(image, dtype=np.float32) / np.float32(255.0)


def _tinted(rng: np.random.Generator, name: str, pixels: Floats) -> Floats:
    """Give a grey texture a colour, and everything a slightly different white balance."""
    if name in _TINTS:
        tint = _TINTS[name][int(rng.integers(len(_TINTS[name])))]
        pixels = pixels / pixels.mean() * np.array(tint, dtype=np.float32)
    balance = rng.uniform(0.9, 1.08, 3) * rng.uniform(0.85, 1.1)
    return pixels * balance.astype(np.float32)


def _view(rng: np.random.Generator, name: str, height: int, width: int) -> Floats:
    """A random crop of a photograph at the given size, slightly out of focus."""
    photo = _photo(name)
    scale = min(photo.width / width, photo.height / height) * rng.uniform(0.55, 1.0)
    w, h = width * scale, height * scale
    x, y = rng.uniform(0.0, photo.width - w), rng.uniform(0.0, photo.height - h)
    crop = photo.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    pixels = _tinted(rng, name, _floats(crop))
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    blurred = skimage.filters.gaussian(pixels, sigma=rng.uniform(0.3, 1.1), channel_axis=-1)
    return blurred.astype(np.float32)


def _floor(rng: np.random.Generator, name: str, height: int, width: int) -> Floats:
    """A ground texture in perspective: two to three times as dense at the far (upper) edge."""
    tile = _tile(name)
    dense = rng.uniform(2.0, 3.0)
    near = min(rng.uniform(0.7, 1.3), tile.width / (width * dense))  # texture pixels per pixel
    # u = U + (x - W/2) near dense / (1 + k y), v = depth / (1 + k y): 1 / (1 + k y) falls from 1 to 1/dense.
    k = (dense - 1.0) / height
    depth = 0.9 * tile.height * rng.uniform(0.6, 1.0)
    centre = tile.width / 2
    data = (near * dense, centre * k, centre - near * dense * width / 2, 0.0, 0.0, depth, 0.0, k)
    size, kind = (width, height), Image.Transform.PERSPECTIVE
    floor = tile.transform(size, kind, data, Image.Resampling.BILINEAR)
    return _tinted(rng, name, _floats(floor))


def _background(
    rng: np.random.Generator, height: int, width: int
) -> tuple[Floats, NDArray[np.uint8], tuple[str, ...]]:
    """A photograph, a wall of texture, or a photograph behind a floor."""
    kind = rng.choice(3, p=(0.45, 0.1, 0.45))
    names = GROUNDS if kind == 1 else BACKDROPS
    name = names[int(rng.integers(len(names)))]
    image = _view(rng, name, height, width)
    ids = np.full((height, width), _STUFF_IDS[name], dtype=np.uint8)
    if kind != 2:
        return image, ids, (name,)
    floor_name = GROUNDS[int(rng.integers(len(GROUNDS)))]
    x = np.linspace(0.0, 2.0 * np.pi, width)
    level, swing = rng.uniform(0.4, 0.72), rng.uniform(0.0, 0.03)
    horizon = height * (level + swing * np.sin(x + rng.uniform(0, 6.28)))
    top = max(0, int(horizon.min()) - 1)
    floor = np.zeros_like(image)
    floor[top:] = _floor(rng, floor_name, height - top, width)
    below = np.arange(height)[:, None] + 1.0 - horizon[None, :]
    cover = np.clip(below, 0.0, 1.0).astype(np.float32)
    ids[cover >= 0.5] = _STUFF_IDS[floor_name]
    return image + (floor - image) * cover[:, :, None], ids, (name, floor_name)


# --- objects


@dataclass
class _Sprite:
    """An object's pixels: color (h, w, 3) and coverage alpha (h, w), in [0, 1], top-left at (x, y)."""

    color: Floats
    alpha: Floats
    category_id: int
    size: float
    x: int = 0
    y: int = 0

    def canvas(self, height: int, width: int, dx: int = 0, dy: int = 0) -> Floats:
        """The coverage on the whole picture (H, W), moved by (dx, dy)."""
        whole = np.zeros((height, width), dtype=np.float32)
        target, source = self.overlap(height, width, dx, dy)
        whole[target] = self.alpha[source]
        return whole

    def overlap(self, height: int, width: int, dx: int = 0, dy: int = 0) -> tuple[Any, Any]:
        """Slices of the picture and of the sprite that overlap."""
        h, w = self.alpha.shape
        x, y = self.x + dx, self.y + dy
        x0, y0 = min(max(0, x), width), min(max(0, y), height)
        x1, y1 = max(x0, min(width, x + w)), max(y0, min(height, y + h))
        return np.s_[y0:y1, x0:x1], np.s_[y0 - y : y1 - y, x0 - x : x1 - x]


def _arrange(
    rng: np.random.Generator, count: int, height: int, width: int, light: Points
) -> tuple[list[_Sprite], list[NDArray[np.bool_]]]:
    """Place objects from nearest to farthest, each where enough of it is visible.

    Later objects do not change what is visible of earlier ones, so the masks are final at once.
    """
    side = float(np.sqrt(height * width))
    sizes = side * np.exp(rng.uniform(np.log(0.2), np.log(0.56), count))
    # Smaller objects tend to stand in front, where they hide less; noise keeps this from being a rule.
    order = np.argsort(sizes * np.exp(rng.normal(0.0, 0.35, count)))
    taken = np.zeros((height, width), dtype=bool)
    placed: list[_Sprite] = []
    masks: list[NDArray[np.bool_]] = []
    for size in sizes[order]:
        kind = int(rng.integers(len(SHAPES)))
        sprite = _draw(rng, SHAPES[kind], kind + 1, float(size), light)
        mask = _place(rng, sprite, SHAPES[kind].airborne, taken, wants_room=rng.random() < 0.5)
        if mask is not None:
            placed.append(sprite)
            masks.append(mask)
            taken |= mask
    return placed, masks


def _place(
    rng: np.random.Generator,
    sprite: _Sprite,
    airborne: bool,
    taken: NDArray[np.bool_],
    wants_room: bool,
) -> NDArray[np.bool_] | None:
    """Set the sprite's x and y and return its visible pixels (H, W), or None if it finds no place.

    Airborne objects tend to be placed in the upper part of the picture, others in the lower. With
    wants_room, the place with most of the object visible is used, otherwise the first with enough visible
    beside `taken`, the pixels of nearer objects.
    """
    height, width = taken.shape
    needed = max(MIN_VISIBLE_AREA, _MIN_VISIBLE_FRACTION * int((sprite.alpha >= 0.5).sum()))
    low, high = (0.1, 0.6) if airborne else (0.35, 0.9)
    best: tuple[int, int, int, NDArray[np.bool_]] | None = None
    for _ in range(_PLACEMENTS):
        sprite.x = int(rng.uniform(0.08, 0.92) * width - sprite.alpha.shape[1] / 2)
        sprite.y = int(rng.uniform(low, high) * height - sprite.alpha.shape[0] / 2)
        mask = (sprite.canvas(height, width) >= 0.5) & ~taken
        visible = int(mask.sum())
        if visible >= needed and (best is None or visible > best[0]):
            best = (visible, sprite.x, sprite.y, mask)
            if not wants_room:
                break
    if best is None:
        return None
    _, sprite.x, sprite.y, mask = best
    return mask


def _pose(
    rng: np.random.Generator, shape: Shape, outlines: list[Points], size: float
) -> list[Points]:
    """Recentre the outlines, scale them to `size` pixels, and rotate, stretch and tilt them."""
    every = np.concatenate(outlines)
    low, high = every.min(0), every.max(0)
    extent = high - low
    scale = 1.0 / (0.6 * extent.max() + 0.4 * extent.min())
    turn = np.deg2rad(rng.uniform(-shape.max_rotation, shape.max_rotation))
    stretch = np.exp(rng.uniform(-0.16, 0.16))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    c, s = np.cos(turn), np.sin(turn)
    linear = np.array([[c, -s], [s, c]]) @ np.array([[1.0, rng.uniform(-0.15, 0.15)], [0.0, 1.0]])
    linear = linear @ np.diag([flip * stretch, 1.0 / stretch]) * scale
    tilt = rng.uniform(-0.3, 0.3, 2)  # one side nearer to the camera
    posed = []
    for outline in outlines:
        p = (outline - (low + high) / 2) @ linear.T
        posed.append(p / (1.0 + p @ tilt)[:, None] * size)
    return posed


def _draw(
    rng: np.random.Generator, shape: Shape, category_id: int, size: float, light: Points
) -> _Sprite:
    """Rasterize one new instance: flat paint first, then texture and light."""
    parts = shape.build(rng)
    outlines = _pose(rng, shape, [part.outline for part in parts], size)
    every = np.concatenate(outlines)
    origin = np.floor(every.min(0)) - 2
    w, h = (int(v) for v in np.ceil(every.max(0) - origin) + 2)
    # Two pictures receive every polygon: the paint, and (texture strength, height, coverage).
    paint = Image.new("RGB", (w * SUPERSAMPLING, h * SUPERSAMPLING))
    relief = Image.new("RGB", paint.size)
    draw_paint, draw_relief = ImageDraw.Draw(paint), ImageDraw.Draw(relief)
    for part, outline in zip(parts, outlines, strict=True):
        flat = ((outline - origin) * SUPERSAMPLING).ravel().tolist()
        red, green, blue = (round(255 * channel) for channel in part.color)
        draw_paint.polygon(flat, fill=(red, green, blue))
        draw_relief.polygon(flat, fill=(round(255 * part.texture), round(255 * part.height), 255))
    color = _floats(paint.reduce(SUPERSAMPLING))
    strength, height, alpha = np.moveaxis(_floats(relief.reduce(SUPERSAMPLING)), -1, 0)
    inside = np.maximum(alpha, 1.0 / 256.0)  # colours are premultiplied by coverage up to here
    color = color / inside[:, :, None]
    color = color * _texture(rng, h, w, strength / inside) * _shading(alpha, height, size, light)
    return _Sprite(np.clip(color, 0.0, 1.0), alpha, category_id, size)


def _texture(rng: np.random.Generator, h: int, w: int, strength: Floats) -> Floats:
    """(h, w, 3) factors around 1 from a rotated crop of a photograph, weighted by `strength` (h, w)."""
    names = tuple(PHOTOS)
    photo = _photo(names[int(rng.integers(len(names)))])
    reach = float(np.hypot(h, w))
    zoom = min(rng.uniform(0.5, 1.5), 0.95 * min(photo.size) / reach)  # photo pixels per pixel
    margin = reach * zoom / 2
    x = rng.uniform(margin, photo.width - margin)
    y = rng.uniform(margin, photo.height - margin)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    c, s = zoom * np.cos(angle), zoom * np.sin(angle)
    affine = (c, -s, x - c * w / 2 + s * h / 2, s, c, y - s * w / 2 - c * h / 2)
    crop = photo.transform((w, h), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    pixels = _floats(crop)
    if rng.random() < 0.7:  # most keep their paint's hue; the others take on the photo's colours
        pixels = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    factors = np.clip(pixels / max(float(pixels.mean()), 0.05), 0.4, 1.7)
    amount = np.float32(rng.uniform(0.3, 0.85)) * strength[:, :, None]
    return np.asarray(1.0 + (factors - 1.0) * amount, dtype=np.float32)


def _shading(alpha: Floats, height: Floats, size: float, light: Points) -> Floats:
    """(h, w, 1) brightness of a rounded body whose parts stand out by `height` (h, w)."""

    def slope(surface: Floats, sigma: float) -> Floats:
        dy, dx = np.gradient(skimage.filters.gaussian(surface, sigma=sigma, mode="constant"))
        return np.asarray(-(dx * light[0] + dy * light[1]) * sigma, dtype=np.float32)

    round_body = slope(alpha, 0.11 * size)
    edges = slope(height, max(0.8, 0.012 * size))
    return np.clip(1.0 + 1.1 * round_body + 0.6 * edges, 0.4, 1.5)[:, :, None]


def _cast_shadow(image: Floats, sprite: _Sprite, light: Points, darkness: float) -> None:
    """Darken the picture (H, W, 3) behind the sprite, away from the light, in place."""
    height, width = image.shape[:2]
    dx, dy = (int(round(-v * (2.0 + 0.05 * sprite.size))) for v in light)
    cast = sprite.canvas(height, width, dx, dy)
    soft = skimage.filters.gaussian(cast, sigma=1.2 + 0.025 * sprite.size)
    image *= (1.0 - darkness * soft)[:, :, None].astype(np.float32)


def _paste(image: Floats, sprite: _Sprite) -> None:
    """Composite the sprite over the picture (H, W, 3), in place."""
    target, source = sprite.overlap(*image.shape[:2])
    alpha = sprite.alpha[source][:, :, None]
    image[target] += (sprite.color[source] - image[target]) * alpha
