"""One image's regions, and their bytes."""
