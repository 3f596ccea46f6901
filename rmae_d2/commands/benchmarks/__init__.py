"""Implements `rmae-d2 benchmark`: one module per benchmark, with ``run(args)``."""
