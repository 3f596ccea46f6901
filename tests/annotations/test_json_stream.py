"""JSON value by value: the same as all at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.annotations.json_stream import Cursor

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON), st.sampled_from([None, 1, "\t"]), st.data())
def test_what_json_loads_reads(content, indent, data):
    cursor, found = Cursor(f" {json.dumps(content, indent=indent)}\n"), {}
    for key in cursor.sections():
        way = data.draw(st.sampled_from(["value", "values", "skip"]))
        if way == "values" and cursor.character == "[":
            found[key] = list(cursor.values())
        elif way == "skip":
            cursor.skip()
            found[key] = content[key]
        else:
            found[key] = cursor.value()
    assert found == content and list(found) == list(content)


@pytest.mark.parametrize("text", ["", "{", '{"a": [1', '{"a": [1}', '{"a": 1,}', '{"a" 1}', "{}x"])
def test_what_is_no_json_is_an_error(text):
    with pytest.raises((json.JSONDecodeError, IndexError)):
        for _ in (cursor := Cursor(text)).sections():
            cursor.skip()
