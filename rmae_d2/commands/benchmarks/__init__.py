"""What `rmae-d2 benchmark` measures: a module for each, with ``run(args)``."""
