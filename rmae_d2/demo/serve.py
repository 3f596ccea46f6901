"""From the command line to a listening server."""

import ipaddress
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..extras import needed
from .requests import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_MOST_CONNECTIONS = 256


def run_demo(
    weights: str | Path,
    config_file: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    examples: Sequence[str] = (),
    mask_ratio: float = 0.0,
    resolution: str = "resize",
    device: str = "auto",
    limits: Limits | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        weights, config_file, mask_ratio, resolution, device: see
            `from_files`.
        host: address to listen on. Others can reach any address but this machine's own loopback.
        port: 0 for a free one.
        examples: images, folders, lists or COCO jsons; if empty, the package's own.
        limits: limits for every user; None for the defaults.

    Raises:
        UserError: packages of the extra are missing, a value is invalid, or an example is unusable.
        CheckpointError: the weights are missing or do not fit.
    """
    for package in ("starlette", "uvicorn"):
        needed(package, "demo", "the interactive demo")
    if not 0 <= mask_ratio <= 0.95:
        raise UserError(f"--mask-ratio {mask_ratio}: from 0 (the model sees all) to 0.95")
    from ..inference.region_prompt import RegionPromptPredictor
    from .examples import default_examples, examples_from
    from .server import build_app

    limits = limits or Limits()
    with _listen(host, port) as listener:
        predictor = RegionPromptPredictor.from_files(
            weights, config_file, device=device, resolution=resolution, mask_ratio=mask_ratio
        )
        offered = examples_from(examples, limits) if examples else default_examples()
        app = build_app(predictor, offered, limits, names_of(host))
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        shown = f"[{shown}]" if ":" in shown else shown
        address = f"http://{shown}:{listener.getsockname()[1]}"
        print(f"serving {weights} at {address} (Ctrl-C ends it)", flush=True)
        _serve(app, listener)


def names_of(host: str) -> tuple[str, ...]:
    """The names under which browsers may reach the server; any, with a warning, if others can reach it."""
    try:
        ours = ipaddress.ip_address(host).is_loopback
    except ValueError:
        ours = host == "localhost"
    if ours:
        return "localhost", "127.0.0.1", "[::1]", host
    print(
        f"warning: --host {host}: everybody who reaches this machine can open images and use its "
        "processor; there is no password",
        file=sys.stderr,
    )
    return ("*",)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a taken port is reported before the model is read."""
    v6 = ":" in host
    family = socket.AF_INET6 if v6 else socket.AF_INET
    both = v6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen at --host {host} --port {port} ({error}): choose another one with --port, 0 for "
            "any that is free"
        ) from error


def _serve(app: "ASGIApp", listener: socket.socket) -> None:
    """Run uvicorn until a signal ends it, even with open connections."""
    import uvicorn

    from .protocol import TimedProtocol

    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        log_level="warning",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])
