"""Sharing a trained model: as a folder that ``rmae_d2.load`` accepts, or as a repository on a hub.

::

    model.safetensors  all tensors, with their checksum
    config.yaml        the run's config, without its machine's absolute paths
    config.json        the file whose downloads a hub counts as the model's
    README.md          the model card, from the run's own events
"""

from .save import push_to_hub, save_pretrained

__all__ = ["push_to_hub", "save_pretrained"]
