"""Command lines, run in this process."""

import pytest
from PIL import Image

from rmae_d2 import commands


@pytest.fixture
def cli(capsys):
    """Runs the words after `rmae-d2`: exit code, what it printed, and its errors."""

    def run(*words):
        try:
            code = commands.run([str(word) for word in words])
        except SystemExit as stopped:  # argparse's
            code = stopped.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """A rendered scene, scene.png in the working directory; the package's weights were not trained on it."""
    from rmae_d2.data.scenes.render import render_scene

    monkeypatch.chdir(tmp_path)
    drawn = render_scene(seed=0, index=0)
    Image.fromarray(drawn.image).save("scene.png")
    return drawn


@pytest.fixture
def shipped_alone(shipped):
    """That nothing is written beside the package's weights, whatever a test does."""
    before = sorted(path.name for path in shipped.parent.iterdir())
    yield shipped
    assert sorted(path.name for path in shipped.parent.iterdir()) == before
