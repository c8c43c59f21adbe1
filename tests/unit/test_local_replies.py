"""The words for Envoy's own refusals: well-formed expressions, one branch for each cause."""

import re

import pytest

from mesh.edge import local_replies
from mesh.edge.local_replies import FALLBACK, TITLES, replies
from mesh.render import error_shape

_TEXT = r"'(?:[^'\\]|\\.)*'"


def branches(expression: str) -> list[str]:
    """The texts that a chain of conditions may pick, in order."""
    return re.findall(rf"(?:\? |: )({_TEXT})", expression)


@pytest.mark.parametrize("field", ["reason", "detail"])
def test_each_cause_has_its_branch_and_the_fallback_comes_last(field: str) -> None:
    expected = [getattr(reply, field) for reply in (*replies(), FALLBACK)]
    found = [text[1:-1].replace("\\'", "'") for text in branches(local_replies.cel(field))]
    assert found == expected


def test_conditions_nest_without_parentheses_around_them() -> None:
    """Envoy's CEL parser refuses more than 32 levels of parentheses."""
    expression = local_replies.cel("reason")
    depth = deepest = 0
    for character in re.sub(_TEXT, "", expression):
        depth += {"(": 1, ")": -1}.get(character, 0)
        deepest = max(deepest, depth)
    assert depth == 0
    assert deepest == 1


def test_reasons_are_constants_and_details_are_sentences() -> None:
    for reply in (*replies(), FALLBACK):
        assert re.fullmatch(r"[A-Z][A-Z_]+", reply.reason)
        assert re.fullmatch(r"[A-Z].*\.", reply.detail)


def test_no_detail_names_an_inner_part() -> None:
    texts = " ".join(reply.detail.lower() for reply in replies())
    assert not re.search(r"envoy|upstream|socket|filter|cluster|rbac|jwt", texts)


def test_titles_are_those_of_http() -> None:
    assert TITLES[404] == "Not Found"
    assert min(TITLES) == 400
    assert branches(local_replies.title_cel())[-1] == "'Error'"
    assert "'Too Many Requests'" in branches(local_replies.title_cel())


def test_lua_gets_every_title() -> None:
    (table,) = re.findall(r"local TITLES = \{(.*)\}", error_shape())
    pairs = dict(re.findall(r'\[(\d+)\] = "([^"]*)"', table))
    assert pairs == {str(code): title for code, title in TITLES.items()}


def test_a_quote_in_a_text_is_escaped() -> None:
    assert local_replies._quoted(r"it's a \ path") == r"'it\'s a \\ path'"


def test_an_answer_that_is_too_large_is_not_taken_for_a_request_that_is() -> None:
    """Envoy counts it among the failures of the transcoder, most of which are the request's."""
    reasons = [reply.reason for reply in replies()]
    (found,) = [reply for reply in replies() if reply.reason == "RESPONSE_TOO_LARGE"]
    assert "response_buffer_size_limit" in found.when
    assert "response_payload_too_large" in found.when
    assert reasons.index(found.reason) < reasons.index("MALFORMED_REQUEST")
    assert "nothing wrong with the request" in found.detail


def test_what_is_too_large_is_told_the_way_that_the_protos_know() -> None:
    told = [reply for reply in replies() if "POST /v1/recipientLists" in reply.detail]
    assert [reply.reason for reply in told] == ["REQUEST_TOO_LARGE"]
    for path in ("/v1/launches", "/icto.backend.v1.LaunchService/CreateLaunch"):
        assert f"'{path}'" in told[0].when
    assert "/v1/projects" not in told[0].when
    assert replies().index(told[0]) < [r.when for r in replies()].index("response.code == 413")
