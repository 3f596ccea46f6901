"""Runs exported models, and writes prediction files. Needs neither torch nor Detectron2."""
