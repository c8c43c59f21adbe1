"""Values of distributions for tests of their rules, each with what does not matter filled in."""

from dataclasses import replace
from typing import Final
from uuid import UUID

from contract.principal import of_service
from services.distribution_deployer.domain import (
    Account,
    Campaign,
    Category,
    Distribution,
    Recipient,
    Source,
    Spec,
    State,
    Timing,
    Whitelist,
)
from services.kit.vesting.vesting_rules import DAY, Instant, Schedule

LIST: Final = UUID("019a0000-0000-7000-8000-000000000001")
WHO: Final = [of_service(f"somebody-{number}") for number in range(5)]
NOW: Final = 1_000 * DAY
FEE: Final = 10


def distribution(spec: Spec, state: State = State.ACTIVE, **more: object) -> Distribution:
    made = Distribution(
        id=LIST,
        operation="launches/x/steps/y",
        owner=WHO[0],
        ledger="ledgers/icp",
        escrow=Account(WHO[1]),
        spec=spec,
        state=state,
        now=NOW,
        create_time=NOW,
        funding_deadline=NOW + DAY,
        timing=Timing(NOW),
    )
    return replace(made, **more)  # type: ignore[arg-type]  # fields by name


def category(source: Source, number: int = 1, **more: object) -> Category:
    made = Category(number, "A category", Schedule(Instant()), source)
    return replace(made, **more)  # type: ignore[arg-type]  # fields by name


def spec(*categories: Category, total: int = 1_000, **more: object) -> Spec:
    made = Spec("A distribution", Campaign.AIRDROP, total, categories)
    return replace(made, **more)  # type: ignore[arg-type]  # fields by name


def named(*amounts: int) -> Whitelist:
    return Whitelist(tuple(Recipient(who, n) for who, n in zip(WHO, amounts, strict=False)))
