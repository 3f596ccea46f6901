"""Records graphs: as ONNX by tracing, and as torch.export's program."""

import io
import warnings
from typing import Any

import torch
from torch import Tensor

from .. import compat
from ..deploy.facts import KEY, ModelFacts
from ..errors import UserError
from ..extras import needed
from .graphs import Graph, example

#: The first opset with all our operators: Detectron2's aligned RoIAlign came with 16.
OPSET = 17

#: Capacity of one ONNX file, bytes.
_LARGEST = 2**31 - 1


def to_onnx(graph: Graph, images: list[Tensor], facts: ModelFacts) -> bytes:
    """Returns the bytes of an ONNX file with the facts in its metadata.

    Args:
        graph: on the CPU.
        images: uint8 (C, h, w), used for recording.
        facts: about its model.

    Raises:
        UserError: if onnx is missing, or the model is too large for one file.
    """
    onnx = needed("onnx", "onnx", "exporting")
    size = sum(p.numel() * p.element_size() for p in graph.parameters())
    if size > _LARGEST:
        raise UserError(
            f"{size / 2**30:.1f} GiB of weights: one ONNX file holds 2; --format pt2 more"
        )
    names = [*graph.inputs, *graph.outputs]
    if graph.batched:
        axes = {name: {0: "batch"} for name in names}
    else:
        axes = {name: {0: "objects"} for name in graph.outputs}
        axes[graph.inputs[0]] = {1: "height", 2: "width"}
    file: Any = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes become constants in the graph, as intended
        torch.onnx.export(
            graph,
            (example(graph, images),),
            file,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
            **compat.onnx_by_tracing(),
        )
    model = onnx.load_model_from_string(file.getvalue())
    onnx.helper.set_model_props(model, {KEY: facts.to_json()})
    content: bytes = model.SerializeToString()
    return content


def to_pt2(graph: Graph, images: list[Tensor], facts: ModelFacts) -> bytes:
    """Returns the bytes of a .pt2 file, with the facts in an extra file.

    Raises:
        UserError: for a detector, because such a program cannot leave the number of objects open.
    """
    if not graph.batched:
        raise UserError(
            "a detector does not go into .pt2, for how many objects it finds is not known before: "
            "export it with --format onnx"
        )
    given: tuple[Any, ...] = (example(graph, images),)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(graph, given, dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={f"{KEY}.json": facts.to_json()})
    return file.getvalue()
