"""Labels as people have them: COCO, LVIS and panoptic files, read and checked."""
