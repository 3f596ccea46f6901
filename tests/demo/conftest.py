"""A tiny model as a run leaves it, and servers: the command in a process of its own, the app in a thread."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from tests.helpers import HUNG, ROOT, save_run


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """model_final.pth with its config.yaml: random weights, large enough for varied masks."""
    path = save_run(tmp_path_factory.mktemp("run"), "model.backbone.net.img_size=64")
    state = torch.load(path, weights_only=True)["model"]
    generator = torch.Generator().manual_seed(9)
    for name, value in state.items():
        if value.is_floating_point() and not name.endswith("pos_embed"):
            value += 0.3 * torch.randn(value.shape, generator=generator)
    torch.save({"model": state}, path)
    return path


@pytest.fixture(scope="session")
def predictor(weights):
    from rmae_d2.inference import RegionPromptPredictor

    return RegionPromptPredictor.from_files(weights, device="cpu")


class Command:
    """tools/interactive_demo.py, running.

    Attributes:
        url: what it printed.
    """

    def __init__(self, *arguments):
        tool = str(ROOT / "tools/interactive_demo.py")
        self.process = subprocess.Popen(
            [sys.executable, tool, "--port", "0", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.first_line = self.process.stdout.readline()
        if "http://" not in self.first_line:
            raise AssertionError(self.process.communicate())
        self.url = "http://" + self.first_line.split("http://")[1].split()[0]

    def end(self, number):
        """Sends a signal; exit code, stdout after the first line, stderr."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=HUNG)
        return self.process.returncode, output, errors


@pytest.fixture(scope="module")
def start():
    """Starts the command with options; what still runs is ended."""
    running = []

    def start(*arguments):
        running.append(Command(*arguments))
        return running[-1]

    yield start
    for started in running:
        if started.process.poll() is None:
            started.process.terminate()
            started.process.communicate(timeout=HUNG)


@pytest.fixture(scope="module")
def command(start, weights):
    return start("--weights", weights)


@pytest.fixture(scope="module")
def serve():
    """Serves an app with uvicorn, as the command does, in a thread of this process; returns its address."""
    import uvicorn

    from rmae_d2.demo.protocol import TimedProtocol

    running = []

    def start(app):
        config = uvicorn.Config(app, port=0, log_level="warning", http=TimedProtocol)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(timeout=HUNG)
        assert not thread.is_alive()
