"""What `rmae-d2 visualize attention` draws: attention of several models over the same photos."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data import read_image
from ..errors import UserError
from ..visualization.attention import Query, draw_attention, draw_components, draw_query, patch_of
from ..visualization.sheets import Picture, SheetRow, contact_sheet
from .attention_models import NamedViT, check_layer, describe_layer, patch_attention
from .predict_inputs import list_inputs

_CAPTION = (
    "Attention: from 0 (dark) to the 98th percentile of each map (light), so strengths do not compare "
    "between maps; the query's patch is framed. Features: the first three principal components of the last "
    "block's patches as red, green, blue; each picture has its own, so colours do not compare either."
)


def parse_query(text: str) -> Query:
    """``x,y`` in pixels of the photo, or ``cls``.

    Raises:
        UserError: for anything else.
    """
    if text == "cls":
        return Query(None, None)
    try:
        x, y = text.split(",")
        return Query(int(x), int(y))
    except ValueError as error:
        raise UserError(f"--query {text}: two whole numbers x,y in pixels, or cls") from error


def draw_attention_pictures(
    models: Sequence[NamedViT],
    inputs: Sequence[str],
    output: Path,
    *,
    queries: Sequence[Query] = (),
    layer: str = "-1",
    head: int | None = None,
    side: int | None = None,
    tile: int = 320,
) -> list[Path]:
    """Draws one picture a photo: a row a query and one of features, a column a model.

    Args:
        models: see :func:`.load_models`.
        inputs: image files, folders, lists and COCO jsons.
        output: folder for the PNGs, named as the photos.
        queries: none for the middle of each photo.
        layer, head: see :func:`.patch_attention`.
        side: shorter side of what the models see, see :meth:`.NamedViT.prepare`.
        tile: longest side of a photo in the picture, pixels.

    Returns:
        the files written.

    Raises:
        UserError: for a query outside of a photo, and for a cls token or a layer that a model has not.
        ImageReadError: for a broken photo.
    """
    check_layer(layer, head)
    written = []
    for photo in list_inputs(inputs):
        image = read_image(photo.path)
        try:
            rows = _rows(models, image, queries or [_middle(image)], layer, head, side)
        except UserError as error:
            raise UserError(f"{photo.path}: {error}") from error
        titles = ["photo", *(f"{m.name}: {describe_layer(m, layer, head)}" for m in models)]
        path = output / f"{os.path.splitext(photo.picture)[0]}_attention.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(rows, titles, _CAPTION, tile)).save(path)
        written.append(path)
    return written


def _rows(
    models: Sequence[NamedViT],
    image: Picture,
    queries: Sequence[Query],
    layer: str,
    head: int | None,
    side: int | None,
) -> list[SheetRow]:
    size = (image.shape[0], image.shape[1])
    maps: list[list[Picture]] = [[] for _ in queries]
    components = []
    for model in models:
        pixels = model.prepare(image, side)
        grid = model.vit.grid(pixels)
        weights = patch_attention(model, pixels, layer, head).numpy()
        for place, query in zip(maps, queries, strict=True):
            patch = _patch(query, size, grid, model)
            row = 0 if patch is None else model.vit.prefix + patch[0] * grid[1] + patch[1]
            seen = weights[row, model.vit.prefix :].reshape(grid)
            place.append(draw_attention(image, seen, patch))
        features = model.vit.features(pixels)[0].cpu().numpy()
        components.append(draw_components(features.reshape(*grid, -1), size))
    first = models[0].vit.grid(models[0].prepare(image, side))
    rows = [
        SheetRow(
            str(query), [draw_query(image, _patch(query, size, first, models[0]), first), *drawn]
        )
        for query, drawn in zip(queries, maps, strict=True)
    ]
    return [*rows, SheetRow("features of the last block", [image, *components])]


def _patch(
    query: Query, size: tuple[int, int], grid: tuple[int, int], model: NamedViT
) -> tuple[int, int] | None:
    if query.x is None:
        if not model.vit.prefix:
            raise UserError(f"--query cls: {model.name} has no cls token")
        return None
    return patch_of(query, size, grid)


def _middle(image: Picture) -> Query:
    return Query(image.shape[1] // 2, image.shape[0] // 2)
