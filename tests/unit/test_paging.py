"""Pages: a capped size, and tokens that only we can make."""

import base64
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import Code, Error
from contract.limits import PAGE_BYTES
from icto.token.v1 import token_pb2
from services.kit.answering import paging


@pytest.mark.parametrize(
    ("asked", "given_"), [(0, 50), (1, 1), (99, 99), (100, 100), (101, 100), (2**31 - 1, 100)]
)
def test_a_page_has_the_size_asked_for_up_to_the_cap(asked: int, given_: int) -> None:
    """F-60: no list without a limit."""
    assert paging.page_size(asked) == given_


words = st.text(max_size=20).filter(str.isprintable)
keys = st.lists(st.one_of(words, st.integers(0, 2**63 - 2)), min_size=1, max_size=3)


@given(keys)
def test_a_token_says_where_the_page_ended(key: list[str | int]) -> None:
    token = paging.encode_token(*key)
    assert paging.decode_token(token, *(type(part) for part in key)) == tuple(key)
    assert token.isascii()
    assert not set(token) & set("+/=")


def test_no_token_is_the_first_page() -> None:
    assert paging.decode_token("", str) is None


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "====",
        "not base64 \u2603",
        encoded({}),
        encoded("text"),
        encoded([]),
        encoded([1, 2]),
        encoded(["1"]),
        encoded([True]),
        encoded([1.0]),
        encoded([None]),
        encoded([[1]]),
        encoded([-1]),
        encoded([2**63 - 1]),
        encoded([2**63]),
        encoded([10**400]),
        base64.urlsafe_b64encode(b"[" * 60).decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"[NaN]").decode(),
    ],
)
def test_a_token_that_we_did_not_make_is_refused(token: str) -> None:
    with pytest.raises(Error) as caught:
        paging.decode_token(token, int)
    error = caught.value
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    assert error.violations[0][0] == "page_token"


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800"])
def test_a_token_with_text_that_cannot_be_stored_is_refused(text: str) -> None:
    with pytest.raises(Error):
        paging.decode_token(encoded([text]), str)


@given(st.text(max_size=100))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    try:
        key = paging.decode_token(text, int)
    except Error:
        return
    assert key is None or isinstance(key[0], int)


def test_an_id_in_a_token_must_be_one() -> None:
    assert str(paging.as_uuid("01890000-0000-7000-8000-000000000000")).startswith("0189")
    with pytest.raises(Error) as caught:
        paging.as_uuid("x")
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


def paged(rows: list[str | None], size: int = 2) -> tuple[list[str], str]:
    """A page of messages of which each has its row's text, and none where the row has none."""
    messages = [None if row is None else text_message(row) for row in rows]
    numbered = list(enumerate(rows))
    page, token = paging.page(numbered, messages, size, lambda row: f"after {row[0]}")
    return [one.name for one in page], token


def text_message(text: str) -> token_pb2.Token:
    """A message that has a text, and a logo that no list shows."""
    return token_pb2.Token(name=text, spec=token_pb2.TokenSpec(symbol="X", logo="large"))


@pytest.mark.parametrize(
    ("rows", "page", "token"),
    [
        ([], [], ""),
        (["a"], ["a"], ""),
        (["a", "b"], ["a", "b"], ""),
        (["a", "b", "c"], ["a", "b"], "after 1"),
        (["a", None, "c"], ["a"], "after 1"),
        ([None, None, "c"], [], "after 1"),
    ],
)
def test_a_page_is_cut_where_there_is_more(
    rows: list[str | None], page: list[str], token: str
) -> None:
    assert paged(rows) == (page, token)


HALF = "x" * (PAGE_BYTES // 2)


@pytest.mark.parametrize(
    ("rows", "count", "token"),
    [
        ([HALF, "b", HALF, "d"], 2, "after 1"),
        ([HALF, HALF], 1, "after 0"),
        ([HALF * 3, "b"], 1, "after 0"),
        (["a", None, HALF * 3], 1, "after 1"),
        ([HALF * 3], 1, ""),
        # As JSON it has six times the bytes.
        (["<" * (PAGE_BYTES // 12), "<" * (PAGE_BYTES // 12), "c"], 1, "after 0"),
        (["\x7f" * (PAGE_BYTES // 12), "\x7f" * (PAGE_BYTES // 12), "c"], 1, "after 0"),
    ],
)
def test_a_page_ends_by_bytes_and_has_something_on_it(
    rows: list[str | None], count: int, token: str
) -> None:
    page, following = paged(rows, 100)
    assert (page, following) == ([row for row in rows if row is not None][:count], token)


def test_a_page_shows_summaries() -> None:
    page, _ = paging.page([1], [text_message("a")], 1, str)
    assert page == [token_pb2.Token(name="a", spec=token_pb2.TokenSpec(symbol="X"))]


def tokens(count: int, size: int) -> tuple[list[SimpleNamespace], Iterator[token_pb2.Token]]:
    """Rows as they are fetched for a page, and their messages."""
    rows = [SimpleNamespace(id=UUID(int=n), number=n) for n in range(1, count + 1)]
    return rows[: size + 1], (token_pb2.Token(name=f"tokens/{row.number}") for row in rows)


@pytest.mark.parametrize("asked", [paging.by_id, paging.by_number])
def test_a_list_begins_at_its_first_row_and_asks_for_one_more_than_it_shows(asked: Any) -> None:
    first = asked(token_pb2.ListTokensRequest(page_size=2))
    assert (first.after, first.size, first.limit) == (None, 2, 3)
    with pytest.raises(Error, match="INVALID_PAGE_TOKEN"):
        asked(token_pb2.ListTokensRequest(page_token="made up"))


def test_a_list_by_id_goes_on_after_the_last_id_of_the_page_before() -> None:
    request = token_pb2.ListTokensRequest(page_size=2)
    shown, token = paging.by_id(request).page(*tokens(3, 2))
    assert [one.name for one in shown] == ["tokens/1", "tokens/2"]
    following = paging.by_id(token_pb2.ListTokensRequest(page_token=token))
    assert following.after == UUID(int=2)
    assert following.page(*tokens(1, 50))[1] == ""


def test_a_list_by_number_goes_on_after_the_last_number_of_the_page_before() -> None:
    request = token_pb2.ListTokensRequest(page_size=2)
    _, token = paging.by_number(request).page(*tokens(3, 2), lambda row: int(row.number))
    assert paging.by_number(token_pb2.ListTokensRequest(page_token=token)).after == 2
    with pytest.raises(Error, match="INVALID_PAGE_TOKEN"):
        paging.by_id(token_pb2.ListTokensRequest(page_token=token))
