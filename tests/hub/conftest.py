"""A real run, small, and a hub on this machine."""

import pytest

from tests.hub.server import Hub


@pytest.fixture(scope="session")
def run(runs, tmp_path_factory):
    """The folder of a run of two steps, measured after the last."""
    out = tmp_path_factory.mktemp("output") / "small"
    runs.train(out, "train.max_iter=2", "train.eval_period=2")
    return out


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    yield server
    server.shutdown()
    server.server_close()
