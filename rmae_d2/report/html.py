"""Single-file pages that contain their own style and pictures and load nothing."""

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
    """Render a Jinja template to a file, creating its folder if needed. Text is escaped.

    The template may include ``head.html``, which uses the content's ``title``.

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
    with atomic_file(path) as file:  # replaces a link instead of following it
        file.write(html.encode(errors="replace"))


def jpeg_uri(image: Image.Image) -> str:
    """Encode a picture as a ``data:`` URL.

    For photographs, JPEG takes a fifth of the size of PNG. Chroma is not subsampled, which keeps the edges
    of regions sharp.
    """
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
