"""A one-page HTML report on a run."""
