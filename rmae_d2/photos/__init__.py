"""Finding, listing and reading image files. Needs neither torch nor Detectron2."""
