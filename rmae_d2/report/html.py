"""Pages of one file, which hold their style and pictures and load nothing."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from ..files import atomic_file, make_folder


def write_page(path: Path, template: Path, content: Mapping[str, Any]) -> None:
    """Writes what a template of Jinja makes of a content, in a new folder where need be. Texts are escaped.

    The template may include ``head.html``, which takes the content's ``title``.

    Raises:
        UserError: the page cannot be written.
    """
    here = Path(__file__).parent
    jinja = Environment(
        loader=FileSystemLoader([template.parent, here]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((here / "style.css").read_text(encoding="utf-8"))
    html = jinja.get_template(template.name).render(style=style, **content)
    make_folder(path.parent)
    with atomic_file(path) as file:  # in place of a link, not through it
        file.write(html.encode(errors="replace"))


def jpeg_uri(image: Image.Image) -> str:
    """A picture as a ``data:`` address.

    Photographs take a fifth of a PNG's size so. Without subsampling of colours, for the edges of regions.
    """
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
