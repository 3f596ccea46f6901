"""How numba compiles for us."""

import pytest

pytest.importorskip("numba", reason="pip install rmae_d2[fast]")
from rmae_d2.regions.jit import compiled


def test_code_that_cannot_be_cached_is_compiled_all_the_same():
    # As in an installation and a home that may not be written: numba finds no place for the cache.
    scope = {}
    exec(compile("def add(a, b):\n    return a + b", "<nowhere>", "exec"), scope)
    function = compiled(scope["add"])
    assert function(1, 2) == 3 and len(function.signatures) == 1
