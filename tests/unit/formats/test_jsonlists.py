"""Lists that are picked by name out of JSON, whatever surrounds them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.views import CountingView

from symcache.errors import MalformedInput
from symcache.formats.jsonlists import find_elements, looks_like_json
from symcache.formats.view import BytesView


def found(text: str | bytes, *names: str) -> list[tuple[str, Any]]:
    data = text.encode() if isinstance(text, str) else text
    return list(find_elements(BytesView(data), names, lambda _, value: "no" not in value))


def test_lists_and_objects_are_found_by_name_wherever_they_stand() -> None:
    text = json.dumps({"a": {"x": [{"v": 1}, {"v": 2}]}, "b": [{"y": {"v": 3}}], "x": 4, "y": [5], "z": [{"v": 6}]})
    assert found(text, "x", "y") == [("x", {"v": 1}), ("x", {"v": 2}), ("y", {"v": 3})]


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_blanks_and_encodings_make_no_difference(indent: int | None, encoding: str) -> None:
    text = json.dumps({"é": "ü", "x": [{"v": "\N{GRINNING FACE}"}]}, indent=indent, ensure_ascii=False)
    assert found(text.encode(encoding), "x") == [("x", {"v": "\N{GRINNING FACE}"})]
    assert looks_like_json(text.encode(encoding))


def test_a_name_within_a_text_is_none() -> None:
    assert found(json.dumps({"a": '"x":[{"v":1}]', "b": '\\"x":[{"v":1}]', "x": [{"v": 2}]}), "x") == [("x", {"v": 2})]


def test_what_does_not_fit_is_passed_over_and_so_is_null() -> None:
    text = json.dumps({"x": [None, {"no": 0}, {"v": 1}, None, None, {"no": 0}, {"v": 2}, None], "y": [{"v": 4}]})
    assert found(text, "x", "y") == [("x", {"v": 1}), ("x", {"v": 2}), ("y", {"v": 4})]


def test_a_list_is_left_at_what_does_not_fit_and_has_one_within() -> None:
    text = json.dumps({"x": [{"v": 1}, {"no": 0, "x": [{"v": 2}]}, {"v": 3}], "y": [{"v": 4}]})
    assert found(text, "x", "y") == [("x", {"v": 1}), ("x", {"v": 2}), ("y", {"v": 4})]


@pytest.mark.parametrize(
    "text",
    [
        '{"x": [{"v": 1}, {"v": 2',
        '{"x": [{"v": 1},',
        '{"x": [{"v": 1}, nul',
        '{"x": [{"v": 1}, {"v" 2}], "y": [{"v": 4}]}',
    ],
    ids=["cut in an entry", "cut between entries", "cut in null", "damaged"],
)
def test_a_list_that_breaks_off_is_said_when_the_rest_was_read(text: str) -> None:
    elements = find_elements(BytesView(text.encode()), ["x"], lambda *_: True)
    assert next(elements) == ("x", {"v": 1})
    with pytest.raises(MalformedInput, match="its list 'x' is damaged or cut short"):
        next(elements)


@pytest.mark.parametrize("length", [10, 70_000, 1_000_000, 3_000_000])
def test_where_pieces_of_the_text_end_makes_no_difference(length: int) -> None:
    for pad in range(5):
        text = json.dumps({"p": "." * (length + pad), "x": [{"v": n, "t": "t" * 50_000} for n in range(30)]})
        assert [value["v"] for _, value in found(text, "x")] == list(range(30))


def test_an_entry_that_is_too_long_ends_its_list_alone() -> None:
    text = json.dumps({"x": [{"v": 1}, {"v": "." * 4_000_000}, {"v": 3}], "y": [{"v": 4}]})
    elements = find_elements(BytesView(text.encode()), ["x", "y"], lambda *_: True)
    assert [next(elements), next(elements)] == [("x", {"v": 1}), ("y", {"v": 4})]
    with pytest.raises(MalformedInput, match="its list 'x'"):
        next(elements)


def test_a_file_is_read_once() -> None:
    view = CountingView(BytesView(json.dumps({"x": [{"v": 1}], "p": "." * 5_000_000}).encode()))
    assert list(find_elements(view, ["x"], lambda *_: True)) == [("x", {"v": 1})]
    assert view.read_bytes <= view.size + 10


@pytest.mark.parametrize("text", ["[SYMCHK] x", "{x}", "[a]", "", "x{", "{'a'"])
def test_what_only_begins_with_a_bracket_is_no_json(text: str) -> None:
    assert not looks_like_json(text.encode())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "y", '"x":[{', "\\"]), inner),
)


def lists_of(value: Any, name: str) -> list[dict[str, Any]]:
    """Return what is to be found under *name*, in the order of the text, not within what was found."""
    if isinstance(value, list):
        return [each for item in value for each in lists_of(item, name)]
    if not isinstance(value, dict):
        return []
    hits: list[dict[str, Any]] = []
    for key, item in value.items():
        if key == name and isinstance(item, dict):
            hits.append(item)
        elif key == name and isinstance(item, list):
            whole = [each is None or isinstance(each, dict) for each in item]
            count = whole.index(False) if False in whole else len(item)
            hits += [each for each in item[:count] if each is not None]
            hits += lists_of(item[count:], name)
        else:
            hits += lists_of(item, name)
    return hits


@given(_JSON)
def test_what_is_found_is_what_a_whole_parser_finds(value: Any) -> None:
    everything = list(find_elements(BytesView(json.dumps(value).encode()), ["x"], lambda *_: True))
    assert [each for _, each in everything] == lists_of(value, "x")
