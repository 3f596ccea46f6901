"""What the pre-trained encoder becomes part of: detection, segmentation, classification."""
