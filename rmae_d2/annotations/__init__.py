"""Read and validate labels found in practice: COCO, LVIS and panoptic files."""
