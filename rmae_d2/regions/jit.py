"""How the package compiles with numba. Importing this module requires numba."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F, inline: str = "never") -> F:
    """Compile at the first call, releasing Python's lock for threads, and cache the code on disk.

    If neither the function's folder, nor the user's cache folder, nor NUMBA_CACHE_DIR is writable, numba
    refuses to cache; each process then compiles for itself. numba only notices changes in the function's own
    file, so a compiled function must not call one from another file.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "inline": inline}
    try:
        result: F = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        result = numba.njit(**options)(function)
    return result


def inlined(function: F) -> F:
    """Like `compiled`, for functions called in inner loops: a real call counts references to its arrays."""
    return compiled(function, inline="always")
