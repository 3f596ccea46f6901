"""Photos as people have them: found, listed and read. Needs neither torch nor Detectron2."""
