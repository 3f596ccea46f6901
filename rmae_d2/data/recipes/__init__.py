"""Adapt configs to their data: number of classes, masks or boxes only, what to evaluate on."""

from .own_data import adapt_to_data

__all__ = ["adapt_to_data"]
