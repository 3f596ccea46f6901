"""Evaluation results in a sentence, compared with a model-free baseline."""

from collections.abc import Mapping
from typing import Any

#: Metrics that summarise tasks without a sentence of their own.
_HEADLINES = ("AP", "mIoU", "top1")


def result_sentence(task: str, metrics: Any, *, norm_pix_loss: bool = False) -> str:
    """Describes a task's results in words.

    Args:
        task: its name among the results, such as ``reconstruction``.
        metrics: numbers by name; anything from third-party evaluators.
        norm_pix_loss: whether the pixel loss compares individually normalised patches.
    """
    if not isinstance(metrics, Mapping):
        return f"{task} {metrics}"
    if task == "reconstruction":
        return _reconstruction(metrics, norm_pix_loss)
    if task == "masking" and "hidden_foreground" in metrics:
        hidden, everywhere = metrics["hidden_foreground"], metrics["all_foreground"]
        text = (
            f"{hidden:.1%} of the hidden patches lie on objects; random masks give {everywhere:.1%}"
        )
        if "hidden_elsewhere" in metrics:
            text += f", the same masks on other images' objects {metrics['hidden_elsewhere']:.1%}"
        return text
    if task == "knn":
        top1, commonest = metrics["top1"], metrics["commonest"]
        return f"k-NN top-1 {top1:.1f} %; always naming the commonest class gives {commonest:.1f} %"
    named = [f"{name} {metrics[name]:.2f}" for name in _HEADLINES if name in metrics]
    return f"{task} {', '.join(named)}".strip()


def _reconstruction(metrics: Mapping[str, Any], norm_pix_loss: bool) -> str:
    parts = []
    for name in metrics:
        if f"{name}_nearest" in metrics:
            of = name.removeprefix("region_iou").strip("_")
            parts.append(
                f"region IoU{f' of {of}' if of else ''} {metrics[name]:.2f}, copying the nearest visible "
                f"patch gives {metrics[f'{name}_nearest']:.2f}"
            )
    if "loss_pixel" in metrics:
        # For a patch with mean 0 and variance 1, predicting the mean has a squared error of 1.
        mean = ", each patch's own mean colour gives 1.00" if norm_pix_loss else ""
        parts.append(f"pixel loss {metrics['loss_pixel']:.2f}{mean}")
    return "; ".join(parts)
