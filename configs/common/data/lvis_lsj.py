"""LVIS v1 with large-scale jitter: images with rare classes are repeated, 300 detections per image."""

from .coco_lsj import dataloader

dataloader.train.dataset.names = "lvis_v1_train"
# Repeat-factor sampling, computed from the dicts that are loaded anyway (LVIS, appendix B.2).
dataloader.train.repeat_threshold = 0.001
dataloader.test.dataset.names = "lvis_v1_val"
dataloader.evaluator.rules = "lvis"
dataloader.evaluator.max_dets_per_image = 300
