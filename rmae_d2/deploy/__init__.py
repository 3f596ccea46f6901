"""Exported models at work, and the files that predictions become. Needs neither torch nor Detectron2."""
