"""Profiles, projects and orders: what may be written, and what is refused."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import ids
from contract.environment import Environment
from contract.errors import Code, Error
from services.backend import config_rules, domain
from services.backend.configuration import _first
from services.backend.domain import Limits, Ordered, Project

PROJECT = Project(UUID(int=1), "owner", "A project", "")
FIELDS = ("display_name", "email", "website")

present = st.dictionaries(st.sampled_from([*FIELDS, "name"]), st.text(max_size=3))
masks = st.lists(st.sampled_from([*FIELDS, "*"]), unique=True)


@given(present, masks)
def test_a_mask_says_what_changes_and_without_one_what_is_there_does(
    given_: Mapping[str, str], mask: list[str]
) -> None:
    """AIP-134. Clearing a field needs it in the mask."""
    changes = domain.changed_fields(given_, mask, FIELDS)
    named = set(FIELDS) if "*" in mask else set(mask) or set(given_) & set(FIELDS)
    assert changes == {name: given_.get(name, "") for name in named}


@pytest.mark.parametrize("path", ["name", "owner", "", "display_name.x", "displayName", "**"])
def test_a_mask_names_only_what_can_be_changed(path: str) -> None:
    with pytest.raises(Error) as caught:
        domain.changed_fields({}, ["email", path], FIELDS)
    assert caught.value.violations[0][0] == "update_mask"


def refused(check: Any, *arguments: Any) -> Error:
    with pytest.raises(Error) as caught:
        check(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("email", ["x", "@x", "x@", "x y@z", "x@\u202ey", "a@b\n", "\0@x"]),
    ],
)
def test_a_profile_field_that_cannot_be_is_refused_by_name(field: str, values: list[str]) -> None:
    for value in values:
        error = refused(domain.profile_changes, {field: value}, [])
        assert error.code is Code.INVALID_ARGUMENT
        assert error.violations[0][0] == f"profile.{field}"


def test_a_profile_may_be_filled_and_cleared() -> None:
    full = {"display_name": "Zoë", "email": "zoe@example.com", "website": "https://example.com/z"}
    assert domain.profile_changes(full, []) == full
    assert domain.profile_changes({}, ["*"]) == dict.fromkeys(full, "")
    assert domain.profile_changes({}, []) == {}


@pytest.mark.parametrize("name", ["", "ab", "  ab  ", "x" * 101])
def test_a_project_name_that_cannot_be_is_refused(name: str) -> None:
    error = refused(domain.project_changes, {"display_name": name}, [])
    assert error.violations[0][0] == "project.display_name"


def test_a_project_name_loses_the_space_around_it() -> None:
    changes = domain.project_changes({"display_name": "  My project "}, [])
    assert changes == {"display_name": "My project"}
    assert domain.project_name("x" * 100) == "x" * 100
    assert domain.project_changes({}, ["description"]) == {"description": ""}


def test_a_stale_etag_is_refused_and_none_is_not() -> None:
    domain.check_etag("", '"3"')
    domain.check_etag('"3"', '"3"')
    error = refused(domain.check_etag, '"2"', '"3"')
    assert (error.code, error.reason) == (Code.ABORTED, "ETAG_MISMATCH")


def test_a_project_has_one_token() -> None:
    domain.check_project_free(PROJECT)
    done = refused(domain.check_project_free, replace(PROJECT, token="tokens/x"))
    busy = refused(domain.check_project_free, replace(PROJECT, deployment=UUID(int=2)))
    assert (done.reason, busy.reason) == ("PROJECT_HAS_TOKEN", "PROJECT_BUSY")
    assert done.code is busy.code is Code.FAILED_PRECONDITION


def test_an_absent_and_a_foreign_project_are_told_alike() -> None:
    assert domain.project_not_found("projects/x").code is Code.NOT_FOUND


def test_a_user_has_so_many_projects_and_no_more() -> None:
    domain.check_project_count(99, 100)
    error = refused(domain.check_project_count, 100, 100)
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "PROJECT_LIMIT")


def test_a_quote_pays_for_exactly_its_steps() -> None:
    domain.check_quote(["b", "a"], ["a", "b"])
    for steps in (["a"], ["a", "a", "b"], ["a", "b", "c"]):
        assert refused(domain.check_quote, steps, ["a", "b"]).reason == "QUOTE_MISMATCH"


def test_without_a_quote_the_way_to_one_is_told() -> None:
    """F-58: the error says what to do next."""
    error = domain.quote_required()
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "QUOTE_REQUIRED")
    assert "CreateQuote" in error.message


def test_a_first_configuration_may_say_zero_and_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is 0 or false on purpose replaces the standard, and the rest of it stays."""
    said = {"limits": {"deploymentCooldown": "0s"}, "features": {"tokenDeployment": False}}
    monkeypatch.setenv("ICTO_INITIAL_CONFIG", json.dumps(said))
    config, standard = _first(Environment.TEST), config_rules.initial()
    assert config.limits.deployment_cooldown.seconds == 0
    assert (config.features.token_deployment, standard.features.token_deployment) == (False, True)
    assert config.limits.pipeline_cooldown == standard.limits.pipeline_cooldown
    assert config.payment == standard.payment


def test_a_quote_for_something_cheaper_is_told() -> None:
    error = domain.quote_mismatch()
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "QUOTE_MISMATCH")


@pytest.mark.parametrize(
    ("allowance", "balance", "problem", "reason"),
    [
        (10, 10, "", ""),
        (9, 10, "Approve at least 10.", "INSUFFICIENT_ALLOWANCE"),
        (9, 9, "Approve at least 10.", "INSUFFICIENT_ALLOWANCE"),
        (10, 9, "The balance is 9.", "INSUFFICIENT_FUNDS"),
        (10, 10, "The approval ends soon.", "INSUFFICIENT_ALLOWANCE"),
    ],
)
def test_an_order_is_accepted_when_its_quote_is_approved(
    allowance: int, balance: int, problem: str, reason: str
) -> None:
    approval = domain.Approval(10, allowance, balance, problem)
    if not reason:
        domain.check_approved(approval)
        return
    with pytest.raises(Error) as caught:
        domain.check_approved(approval)
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, reason)
    assert caught.value.message == problem
    assert caught.value.metadata["required"] == "10"


NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
LIMITS = Limits(tokens=2, per_day=3, cooldown=timedelta(minutes=5))
IDLE = Ordered(NOON, tokens=1, day_start=NOON - timedelta(hours=1), day_count=1, last=None)


@pytest.mark.parametrize(
    ("ordered", "reason", "says"),
    [
        (replace(IDLE, tokens=2), "TOKEN_LIMIT", "as many tokens"),
        (replace(IDLE, day_count=3), "DAILY_LIMIT", "from 2026-01-03 11:00:00 UTC on"),
        (replace(IDLE, last=NOON - timedelta(minutes=4)), "COOLDOWN", "2026-01-02 12:01:00 UTC"),
    ],
)
def test_whoever_may_not_order_now_is_told_from_when_on(
    ordered: Ordered, reason: str, says: str
) -> None:
    with pytest.raises(Error, match=says) as caught:
        domain.check_limits(ordered, LIMITS)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "ordered",
    [
        IDLE,
        replace(IDLE, day_count=9, day_start=NOON - timedelta(hours=24)),
        replace(IDLE, last=NOON - timedelta(minutes=5)),
    ],
)
def test_others_may_order(ordered: Ordered) -> None:
    domain.check_limits(ordered, LIMITS)


def test_a_deployment_was_accepted_when_its_row_says_or_else_its_id() -> None:
    stored = datetime(2026, 1, 1, tzinfo=UTC)
    made = domain.Deployment(UUID(int=1), "owner", None, b"", "trace")
    assert made.accept_time == ids.time_of(UUID(int=1))
    assert replace(made, create_time=stored).accept_time == stored
