"""Interactive segmentation in a browser: ``rmae-d2 demo``, or `run_demo`.

Needs Starlette and uvicorn (the extra ``demo``), of which nothing is imported before the server
starts, nor torch: the processes that decode images import this package too. The page in ``page/`` is plain
HTML, CSS and JavaScript without anything from a network.
"""

from .requests import Limits
from .serve import run_demo

__all__ = ["Limits", "run_demo"]
