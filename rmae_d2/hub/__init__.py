"""Handing a trained model on: as a folder that ``rmae_d2.load`` takes, or as a repository on a hub.

::

    model.safetensors  all tensors, with their checksum
    config.yaml        the run's, without the absolute paths of its machine
    config.json        by whose downloads a hub counts a model's
    README.md          the model card, from the run's own events
"""

from .save import push_to_hub, save_pretrained

__all__ = ["push_to_hub", "save_pretrained"]
