"""How the package compiles with numba. Importing this module needs numba."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F, inline: str = "never") -> F:
    """Compile at the first call, for threads without Python's lock, and keep the code on disk.

    Where neither the function's folder, nor the user's cache folder, nor NUMBA_CACHE_DIR may be
    written, numba refuses to cache; each process then compiles for itself. It notices a change of the
    function's own file only, so a compiled function calls none of another file.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "inline": inline}
    try:
        result: F = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        result = numba.njit(**options)(function)
    return result


def inlined(function: F) -> F:
    """As `compiled`, for what inner loops call: a true call counts references to its arrays."""
    return compiled(function, inline="always")
