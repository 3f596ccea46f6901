"""Finished runs of tiny models."""

import pytest

from tests.helpers import save_run


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """Writes a run with overrides into a new folder; the path of its weights."""
    return lambda *overrides: str(save_run(tmp_path_factory.mktemp("run"), *overrides))
