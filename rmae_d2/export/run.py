"""Implements `rmae-d2 export`: writes a model to a file that has been checked against it."""

from collections.abc import Sequence
from pathlib import Path

from ..data.scenes.render import BACKDROPS, photo_path
from ..errors import UserError
from ..files import atomic_file, make_folder
from ..photos.inputs import list_inputs
from ..photos.reading import read_image
from .check import compare, to_input
from .graphs import GRAPHS
from .source import load_source
from .write import to_onnx, to_pt2

#: Formats, and their file extensions.
ENDINGS = {"onnx": ".onnx", "pt2": ".pt2"}


def check_ending(output: Path, format_: str) -> None:
    """Raises UserError if a file's extension does not match the format."""
    if output.suffix.lower() != ENDINGS[format_]:
        raise UserError(f"--output {output}: --format {format_} is written to *{ENDINGS[format_]}")


def export_model(
    model: str,
    output: Path,
    format_: str = "onnx",
    *,
    config_file: str | None = None,
    overrides: Sequence[str] = (),
    images: Sequence[str] = (),
    max_images: int = 8,
) -> str:
    """Exports a model and checks it on photos before the file gets its name.

    Args:
        model, config_file, overrides: see `rmae_d2.export.source.load_source`.
        output: .onnx or .pt2, matching the format.
        format_: a key of `ENDINGS`.
        images: photos, folders, lists or jsons for the check; empty for scikit-image's photographs.
        max_images: use only this many, from the first.

    Returns:
        What was exported, and the largest differences, in words.

    Raises:
        UserError: if it cannot be exported, or differs too much: then there is no file.
        CheckpointError: if weights are missing or do not fit.
    """
    check_ending(output, format_)
    paths = [image.path for image in list_inputs(images)] if images else map(photo_path, BACKDROPS)
    photos = [read_image(path) for path in [*paths][:max_images]]
    source = load_source(model, config_file, overrides)
    facts = source.facts
    graph = GRAPHS[facts.task](source)
    write = to_onnx if format_ == "onnx" else to_pt2
    content = write(graph, [to_input(facts, photo) for photo in photos[:2]], facts)
    differences, seen = compare(source, graph, content, photos, format_ == "onnx")
    found = "\n".join(f"  {difference}" for difference in differences)
    size = f"{facts.size[0]}x{facts.size[1]} pixels"
    text = f"{facts.task} of {model}, {size}, largest differences from PyTorch on {seen}:\n{found}"
    wrong = [difference for difference in differences if not difference.is_small]
    if wrong:
        raise UserError(f"nothing is written, for the exported model differs: {text}")
    make_folder(output.parent)
    with atomic_file(output) as file:
        file.write(content)
    return f"{text}\nwritten: {output.resolve()} ({len(content) / 2**20:.1f} MiB)"
