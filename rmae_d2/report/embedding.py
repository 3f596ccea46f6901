"""Pictures of a run as data URIs, to stand inside a page."""

import base64
import io
import warnings
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..visualization.samples import MAX_SAMPLES, MAX_WIDTH, kept_samples

_MAX_PIXELS = 50_000_000  # of a picture that is opened


def embed_pictures(run: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The pictures a pre-training run kept, and its last.

    Args:
        run: its folder.

    Returns:
        ``caption`` and ``uri`` of each; and what could not be read, in a line each.
    """
    kept = kept_samples(run)
    # The hook keeps fewer; whoever put more there gets them thinned evenly, the last included.
    step = -(-len(kept) // (MAX_SAMPLES + 2)) or 1
    chosen = [(f"after {n:,} iterations", kept[n]) for n in list(kept)[::-1][::step][::-1]]
    final = run / "reconstruction.png"
    if final.is_file():
        chosen.append(("the run's last picture, of more samples", final))
    shown, broken = [], []
    for caption, path in chosen:
        try:
            shown.append({"caption": caption, "uri": _data_uri(path)})
        except (OSError, ValueError, SyntaxError, Warning) as error:
            broken.append(f"{path.name}: not a picture that can be read ({type(error).__name__})")
    return shown, broken


def _data_uri(path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=("PNG",)) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise UserError(f"over {_MAX_PIXELS} pixels")
            image = opened.convert("RGB")
    if image.width > MAX_WIDTH:
        height = max(round(image.height * MAX_WIDTH / image.width), 1)
        image = image.resize((MAX_WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Photographs: a fifth of a PNG's size. Without subsampling of colours, for the edges of regions.
    image.save(buffer, format="JPEG", quality=85, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
