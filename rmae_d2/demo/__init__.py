"""Interactive segmentation in a browser: ``rmae-d2 demo``, or `run_demo`.

Needs Starlette and uvicorn (the extra ``demo``). Neither they nor torch are imported before the server
starts, because the processes that decode images import this package too. The page in ``page/`` is plain HTML,
CSS and JavaScript and loads nothing from a network.
"""

from .requests import Limits
from .serve import run_demo

__all__ = ["Limits", "run_demo"]
