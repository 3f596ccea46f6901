"""Models for transferring the pre-trained encoder: detection, segmentation, classification."""
