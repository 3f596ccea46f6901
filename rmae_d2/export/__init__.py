"""Exports a trained model to one file that runs without this package: ONNX, or torch.export's program."""

from .run import export_model

__all__ = ["export_model"]
