"""Which specs of distributions are accepted: every refusal names its field and its reason."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from contract.errors import Code, Error
from contract.principal import of_service
from services.distribution_deployer import spec_rules
from services.distribution_deployer.domain import (
    Campaign,
    ClaimRate,
    EarlyUnlock,
    Listed,
    Pool,
    Recipient,
    Spec,
    TokenHolder,
    Whitelist,
)
from services.distribution_deployer.spec_rules import (
    MAX_CATEGORIES,
    MAX_CATEGORY_ID,
    MAX_RATE,
    MAX_RECIPIENTS,
    MAX_SEATS,
    SealedList,
)
from services.kit.vesting.vesting_rules import (
    DAY,
    LONGEST,
    SECOND,
    WHOLE,
    YEAR,
    Custom,
    Instant,
    Linear,
    Milestone,
    Milestones,
    Schedule,
    Unlock,
)
from tests.support.distribution_values import FEE, LIST, NOW, WHO, category, named, spec

SEALED: Final = {LIST: SealedList(1, 1_000, 3, FEE + 1)}
FIRST: Final = "spec.categories[0]"
POOL: Final = f"{FIRST}.pool"
WHITELIST: Final = f"{FIRST}.whitelist.recipients"
LATER: Final = NOW + 9 * DAY


def refused(decide: Callable[[], object]) -> tuple[str, str]:
    """The field that an INVALID_ARGUMENT names, and its reason."""
    with pytest.raises(Error) as told:
        decide()
    assert told.value.code is Code.INVALID_ARGUMENT
    return told.value.violations[0][0], told.value.reason


def pool(*shares: int | None, **more: object) -> Spec:
    """A spec whose one category is a pool of 1,000: share and seats."""
    source = replace(Pool(1_000, *shares), **more)  # type: ignore[arg-type]  # fields by name
    return spec(category(source))


def whitelist(*recipients: Recipient) -> Spec:
    return spec(category(Whitelist(recipients)), total=sum(one.amount for one in recipients))


def linear(days: int, **more: Any) -> Spec:
    return spec(category(named(1_000), schedule=Schedule(Linear(days * DAY))), **more)


MANY: Final = tuple(Recipient(of_service(f"many-{n}"), 100) for n in range(MAX_RECIPIENTS + 1))
BY_MILESTONE: Final = Schedule(Milestones(WHO[0], (Milestone("done", WHOLE),)))


@pytest.mark.parametrize(
    ("asked", "field", "reason"),
    [
        (spec(category(named(1_000)), display_name=" ab "), "spec.display_name", ""),
        (spec(category(named(1_000), display_name="x" * 101)), f"{FIRST}.display_name", ""),
        (whitelist(*MANY), "spec.categories", "TOO_MANY_RECIPIENTS"),
        (spec(), "spec.categories", ""),
        (
            spec(*(category(named(1), n + 1) for n in range(MAX_CATEGORIES + 1))),
            "spec.categories",
            "",
        ),
        (spec(category(named(1_000), 0)), f"{FIRST}.id", ""),
        (spec(category(named(1_000), MAX_CATEGORY_ID + 1)), f"{FIRST}.id", ""),
        (
            spec(category(named(500)), category(named(500))),
            "spec.categories[1].id",
            "DUPLICATE_CATEGORY",
        ),
        (whitelist(), WHITELIST, ""),
        (whitelist(Recipient("nobody", 1_000)), f"{WHITELIST}[0].principal", "INVALID_PRINCIPAL"),
        (whitelist(Recipient(WHO[0], 0)), f"{WHITELIST}[0].amount", "INVALID_AMOUNT"),
        (
            whitelist(Recipient(WHO[0], 500), Recipient(WHO[0], 500)),
            f"{WHITELIST}[1].principal",
            "DUPLICATE_RECIPIENT",
        ),
        (whitelist(Recipient(WHO[0], FEE)), WHITELIST, "AMOUNT_BELOW_FEE"),
        (pool(None, None), POOL, ""),
        (pool(0, 5), f"{POOL}.amount_per_participant", "INVALID_AMOUNT"),
        (pool(None, 0), f"{POOL}.amount_per_participant", "INVALID_AMOUNT"),
        (pool(1_001, None), f"{POOL}.max_participants", ""),
        (pool(1, MAX_SEATS + 1), f"{POOL}.max_participants", ""),
        (pool(101, 10), f"{POOL}.amount", "POOL_TOO_SMALL"),
        (pool(FEE, 100), POOL, "AMOUNT_BELOW_FEE"),
        (
            pool(100, 10, holder=TokenHolder("ledgers/icp", 0)),
            f"{POOL}.eligibility.token_holder.min_amount",
            "",
        ),
        (
            pool(100, 10, opens=LATER, closes=LATER),
            f"{POOL}.registration.end_time",
            "",
        ),
        (
            replace(pool(100, 10, closes=LATER + 1), end=LATER),
            f"{POOL}.registration.end_time",
            "",
        ),
        (
            spec(category(named(1_000), schedule=BY_MILESTONE)),
            f"{FIRST}.schedule.milestones",
            "NOT_IMPLEMENTED",
        ),
        (
            spec(category(named(1_000), start=NOW), start=NOW + 1),
            f"{FIRST}.start_time",
            "",
        ),
        (
            spec(
                category(named(1_000), schedule=Schedule(Custom((Unlock(NOW - 1, 1_000),)))),
                start=NOW,
            ),
            f"{FIRST}.schedule.custom.unlocks",
            "INVALID_SCHEDULE",
        ),
        (spec(category(named(1_000)), total=0), "spec.total_amount", "INVALID_AMOUNT"),
        (spec(category(named(1_000)), total=999), "spec.total_amount", "ALLOCATIONS_DO_NOT_SUM"),
        (spec(category(named(1_000)), campaign=Campaign.VESTING), "spec.campaign_type", ""),
        (
            spec(category(named(1_000)), campaign=Campaign.PUBLIC, public=True),
            "spec.campaign_type",
            "",
        ),
        (replace(pool(100, 10), campaign=Campaign.PUBLIC), "spec.campaign_type", ""),
        (linear(1, end=LATER, claim_deadline=LATER - 1), "spec.claim_deadline", ""),
        (linear(1, start=LATER, end=LATER), "spec.end_time", ""),
        (linear(9, start=NOW, end=LATER - 1), "spec.end_time", "OVER_BEFORE_UNLOCKED"),
        (
            linear(9, start=NOW, claim_deadline=LATER - 1),
            "spec.claim_deadline",
            "OVER_BEFORE_UNLOCKED",
        ),
        (
            linear(1, early_unlock=EarlyUnlock(WHOLE + 1)),
            "spec.early_unlock.penalty_basis_points",
            "",
        ),
        (
            linear(1, early_unlock=EarlyUnlock(1, "nobody")),
            "spec.early_unlock.penalty_recipient",
            "INVALID_PRINCIPAL",
        ),
        (
            linear(1, early_unlock=EarlyUnlock(1, WHO[0], LONGEST + 1)),
            "spec.early_unlock.minimum_lock",
            "",
        ),
        (linear(1, claim_rate=ClaimRate(0, DAY)), "spec.claim_rate.max_claims", ""),
        (linear(1, claim_rate=ClaimRate(MAX_RATE + 1, DAY)), "spec.claim_rate.max_claims", ""),
        (linear(1, claim_rate=ClaimRate(1, SECOND - 1)), "spec.claim_rate.window", ""),
        (linear(1, claim_rate=ClaimRate(1, 30 * DAY + 1)), "spec.claim_rate.window", ""),
        (linear(1, funding_period=60 * SECOND - 1), "spec.funding_period", ""),
        (linear(1, funding_period=30 * DAY + 1), "spec.funding_period", ""),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_by_the_name_of_its_field(
    asked: Spec, field: str, reason: str
) -> None:
    """F-37, F-40, F-47: nothing is corrected in silence."""
    assert refused(lambda: spec_rules.complete(asked, SEALED, FEE)) == (
        field,
        reason or "INVALID_FIELD",
    )


@pytest.mark.parametrize(
    "asked",
    [
        linear(9, start=NOW, end=LATER, claim_deadline=LATER),
        linear(1, campaign=Campaign.VESTING),
        replace(pool(100, 10, closes=LATER), campaign=Campaign.PUBLIC, public=True, end=LATER),
        pool(100, None, holder=TokenHolder("ledgers/icp", 1), opens=NOW, closes=NOW + 1),
        spec(category(Listed(LIST))),
        linear(1, early_unlock=EarlyUnlock(0), claim_rate=ClaimRate(MAX_RATE, 30 * DAY)),
        linear(1, early_unlock=EarlyUnlock(WHOLE, WHO[0], LONGEST), funding_period=30 * DAY),
        spec(category(named(1_000), start=LATER), start=LATER),
    ],
)
def test_a_spec_at_its_bounds_is_accepted(asked: Spec) -> None:
    assert spec_rules.complete(asked, SEALED, FEE).total == asked.total


@pytest.mark.parametrize(
    ("asked", "field", "reason"),
    [
        (linear(1, start=NOW - 1), "spec.start_time", "START_IN_THE_PAST"),
        (linear(1, end=NOW + LONGEST + 1), "spec.end_time", "INVALID_SCHEDULE"),
        (linear(1, claim_deadline=NOW - 1), "spec.claim_deadline", "START_IN_THE_PAST"),
        (spec(category(named(1), start=NOW - 1)), f"{FIRST}.start_time", "START_IN_THE_PAST"),
        (pool(100, 10, closes=NOW - 1), f"{POOL}.registration.end_time", "START_IN_THE_PAST"),
        (
            spec(category(named(1), schedule=Schedule(Custom((Unlock(NOW - 1, 1),))))),
            f"{FIRST}.schedule.custom.unlocks",
            "INVALID_SCHEDULE",
        ),
        (linear(9, end=LATER - 1), "spec.end_time", "OVER_BEFORE_UNLOCKED"),
    ],
)
def test_nothing_of_a_spec_lies_before_the_moment_at_which_it_was_asked_for(
    asked: Spec, field: str, reason: str
) -> None:
    told = refused(lambda: spec_rules.check_beginnings(asked, NOW))
    assert told == (field, reason or "INVALID_FIELD")


def test_a_category_with_a_start_of_its_own_is_measured_by_that() -> None:
    """A custom schedule that lies before the distribution's start may follow its category's."""
    early = Schedule(Custom((Unlock(NOW + DAY, 1_000),)))
    own = spec(category(named(1_000), schedule=early, start=NOW + DAY), end=NOW + YEAR)
    spec_rules.check_beginnings(own, NOW)
    spec_rules.check_beginnings(spec(category(named(1_000)), start=NOW), NOW)


def test_a_kept_spec_names_lists_and_nobody() -> None:
    made = spec(category(named(500, 500)), category(Listed(LIST), 2), category(Pool(1_000), 3))
    kept = spec_rules.without_names(made)
    assert [one.source for one in kept.categories] == [Whitelist(), Listed(LIST), Pool(1_000)]
    assert spec_rules.lists_of(kept) == [LIST]
    assert list(spec_rules.named(made)) == [(1, Recipient(who, 500)) for who in WHO[:2]]
    assert not list(spec_rules.named(kept))


def test_an_instant_category_is_no_vesting_beside_one_that_is() -> None:
    both = spec(
        category(named(500)),
        category(named(500), 2, schedule=Schedule(Linear(DAY))),
        campaign=Campaign.VESTING,
    )
    assert both.categories[0].schedule == Schedule(Instant())
    assert spec_rules.complete(both, {}, FEE).campaign is Campaign.VESTING
