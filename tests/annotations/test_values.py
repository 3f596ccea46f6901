"""Numbers, flags and ids as they are written; what has no reading is an error that shows it."""

import math

import pytest

from rmae_d2.annotations.entries import key_of
from rmae_d2.annotations.values import flag, identifier, integer, number, parsed, shown


@pytest.mark.parametrize("value", [7, 7.0, "7", " 7 ", "7.0", "7."])
def test_whole_numbers(value):
    assert integer(value) == 7 and type(integer(value)) is int


@pytest.mark.parametrize(
    "value", [7.5, "7.5", "07", "7e0", "", None, True, [7], math.nan, math.inf, 10**20, "1" * 30]
)
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match="is not a whole number"):
        integer(value)


def test_numbers():
    assert [number(x) for x in (2, 2.5, "2.5", " -1e3 ")] == [2, 2.5, 2.5, -1000]
    for value in (None, True, [1], "x", "", "NaN", "inf", math.nan, 10**400):
        with pytest.raises(ValueError, match="is not a finite number"):
            number(value)


def test_flags():
    assert [flag(x) for x in (1, 1.0, "1", True, "true", "TRUE", "yes")] == [True] * 7
    assert [flag(x) for x in (0, 0.0, "0", False, "False", "", None, "no")] == [False] * 8
    for value in (2, -1, "x", [], math.nan, [0]):
        with pytest.raises(ValueError, match="is neither 0 nor 1"):
            flag(value)


def test_ids():
    assert [identifier(x) for x in (7, 7.0, "7", "a7")] == [7, 7, "7", "a7"]
    assert key_of("7") == key_of(7) == 7 and key_of("007") == "007" and key_of("-3") == -3
    for value in (None, "", True, [1], 7.5, {}):
        with pytest.raises(ValueError, match="is not an id|not a whole number"):
            identifier(value)


def test_values_are_shown_in_quotes_and_cut():
    assert [shown(x) for x in (99, "99", None, [1])] == ["'99'", "'\"99\"'", "'null'", "'[1]'"]
    assert len(shown("x" * 999)) < 80 and shown(list(range(999))).endswith(" ...'")
    assert shown(b"x") == "'b'x''"


def test_json_in_a_text():
    assert parsed("[1, 2]") == [1, 2] and parsed(' {"a": 1}') == {"a": 1}
    assert [parsed(x) for x in ("[1", "7", None, [1])] == ["[1", "7", None, [1]]
    assert parsed("[" * 10_000) == "[" * 10_000
