"""Which specs are accepted: every default filled in, everything that does not fit refused."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, assert_never
from uuid import UUID

from contract import principal
from contract.errors import Error, invalid
from contract.oversize import instead_of_many
from services.distribution_deployer.domain import (
    Campaign,
    Category,
    ClaimRate,
    EarlyUnlock,
    Listed,
    Pool,
    Recipient,
    Spec,
    Whitelist,
    last_unlock,
)
from services.kit.vesting import vesting_rules
from services.kit.vesting.vesting_rules import Instant, Milestones

NAME_LENGTH: Final = range(3, 101)
MAX_CATEGORIES: Final = 20
_WHITELIST: Final = "icto.distribution.v1.Whitelist"
MAX_RECIPIENTS: Final = 1_000
"""Recipients that one request may name; more come as a recipient list."""
MAX_SEATS: Final = 1_000_000
MAX_CATEGORY_ID: Final = 2**31 - 1
FUNDING_PERIOD: Final = (60 * vesting_rules.SECOND, 30 * vesting_rules.DAY)
RATE_WINDOW: Final = (vesting_rules.SECOND, 30 * vesting_rules.DAY)
MAX_RATE: Final = 1_000


@dataclass(frozen=True, slots=True)
class SealedList:
    """What is known of a list that a category may use."""

    category_id: int
    amount: int
    count: int
    smallest: int


def complete(spec: Spec, lists: Mapping[UUID, SealedList], fee: int) -> Spec:
    """The spec with every default filled in.

    Args:
        spec: as it was asked for.
        lists: those lists that its owner may use for it.
        fee: what the ledger takes of a claim.

    Raises:
        Error: INVALID_ARGUMENT, naming the field and its bound.
    """
    _check_name(spec.display_name, "spec.display_name")
    _check_number_of_recipients(spec.categories)
    _check_categories(spec.categories)
    categories = tuple(
        _completed(category, lists, f"spec.categories[{position}]")
        for position, category in enumerate(spec.categories)
    )
    spec = replace(spec, display_name=spec.display_name.strip(), categories=categories)
    for position, category in enumerate(categories):
        _check_category(category, spec, lists, fee, f"spec.categories[{position}]")
    _check_total(spec)
    _check_campaign(spec)
    _check_order_of_times(spec)
    _check_early_unlock(spec.early_unlock)
    _check_claim_rate(spec.claim_rate)
    _check_span(spec.funding_period, FUNDING_PERIOD, "spec.funding_period", "60 s to 30 days")
    return spec


def check_beginnings(spec: Spec, moment: int) -> None:
    """Passes when nothing of the spec lies before the moment at which it was asked for.

    Raises:
        Error: INVALID_ARGUMENT, something does.
    """
    for at, time in _beginnings(spec):
        if time is not None:
            vesting_rules.check_start(time, moment, at)
    if spec.start is None:
        for position, category in enumerate(spec.categories):
            field = f"spec.categories[{position}]"
            if category.start is None:
                vesting_rules.check_times(category.schedule, moment, f"{field}.schedule")
        _check_over(spec, moment)


def _beginnings(spec: Spec) -> Iterator[tuple[str, int | None]]:
    yield "spec.start_time", spec.start
    yield "spec.end_time", spec.end
    yield "spec.claim_deadline", spec.claim_deadline
    for position, category in enumerate(spec.categories):
        field = f"spec.categories[{position}]"
        yield f"{field}.start_time", category.start
        if isinstance(category.source, Pool):
            yield f"{field}.pool.registration.end_time", category.source.closes


def _check_number_of_recipients(categories: Sequence[Category]) -> None:
    sources = (category.source for category in categories)
    count = sum(len(source.recipients) for source in sources if isinstance(source, Whitelist))
    if count > MAX_RECIPIENTS:
        raise invalid(
            "spec.categories",
            f"name {count} recipients; at most {MAX_RECIPIENTS} fit in one request."
            f" {instead_of_many(_WHITELIST)}".removesuffix("."),
            "TOO_MANY_RECIPIENTS",
        )


def _check_categories(categories: Sequence[Category]) -> None:
    if not 1 <= len(categories) <= MAX_CATEGORIES:
        raise invalid("spec.categories", f"must be 1 to {MAX_CATEGORIES}")
    seen: set[int] = set()
    lists: set[UUID] = set()
    for position, category in enumerate(categories):
        field = f"spec.categories[{position}]"
        if not 1 <= category.id <= MAX_CATEGORY_ID:
            raise invalid(f"{field}.id", f"must be 1 to {MAX_CATEGORY_ID}")
        if category.id in seen:
            raise invalid(f"{field}.id", f"is {category.id} a second time", "DUPLICATE_CATEGORY")
        seen.add(category.id)
        if isinstance(category.source, Listed):
            if category.source.list_id in lists:
                raise list_unusable(f"{field}.recipient_list", "is used by two categories")
            lists.add(category.source.list_id)


def _completed(category: Category, lists: Mapping[UUID, SealedList], field: str) -> Category:
    """The category with what its source allocates to how many."""
    match category.source:
        case Whitelist(recipients):
            _check_recipients(recipients, f"{field}.whitelist.recipients")
            amount = sum(recipient.amount for recipient in recipients)
            return replace(category, amount=amount, count=len(recipients))
        case Listed(list_id):
            sealed = lists.get(list_id)
            if sealed is None:
                problem = "must be a sealed list of yours that no distribution uses"
                raise list_unusable(f"{field}.recipient_list", problem)
            if sealed.category_id != category.id:
                problem = f"was made for category {sealed.category_id}, not {category.id}"
                raise list_unusable(f"{field}.recipient_list", problem)
            return replace(category, amount=sealed.amount, count=sealed.count)
        case Pool():
            pool, seats = _completed_pool(category.source, f"{field}.pool")
            return replace(category, source=pool, amount=pool.amount, count=seats)
        case _:
            assert_never(category.source)


def _check_recipients(recipients: Sequence[Recipient], field: str) -> None:
    if not recipients:
        raise invalid(field, "must name at least one recipient")
    check_page(recipients, field)


def check_page(recipients: Sequence[Recipient], field: str) -> None:
    """Passes when recipients are principals that can sign in, each once and with something.

    Raises:
        Error: INVALID_ARGUMENT, naming the recipient.
    """
    seen: set[str] = set()
    for position, recipient in enumerate(recipients):
        at = f"{field}[{position}]"
        _check_principal(recipient.principal, f"{at}.principal")
        if recipient.amount < 1:
            raise invalid(f"{at}.amount", "must be at least 1", "INVALID_AMOUNT")
        if recipient.principal in seen:
            problem = f"names {recipient.principal} a second time"
            raise invalid(f"{at}.principal", problem, "DUPLICATE_RECIPIENT")
        seen.add(recipient.principal)


def _check_principal(text: str, field: str) -> None:
    if not principal.is_person(text):
        raise invalid(field, "must be a principal that can sign in", "INVALID_PRINCIPAL")


def _completed_pool(pool: Pool, field: str) -> tuple[Pool, int]:
    """The pool with share and seats, which never exceed its amount (F-40); and the seats."""
    share, seats = pool.share, pool.seats
    if share is None and seats is None:
        raise invalid(field, "must give amount_per_participant, max_participants or both")
    if share is None:
        share = pool.amount // seats if seats else 0
    if seats is None:
        seats = min(pool.amount // share, MAX_SEATS) if share else 0
    if share < 1:
        raise invalid(f"{field}.amount_per_participant", "must be at least 1", "INVALID_AMOUNT")
    if not 1 <= seats <= MAX_SEATS:
        raise invalid(f"{field}.max_participants", f"must be 1 to {MAX_SEATS}")
    if share * seats > pool.amount:
        problem = f"is {pool.amount}; {seats} shares of {share} are more"
        raise invalid(f"{field}.amount", problem, "POOL_TOO_SMALL")
    if pool.holder is not None and pool.holder.min_amount < 1:
        raise invalid(f"{field}.eligibility.token_holder.min_amount", "must be at least 1")
    if pool.opens is not None and pool.closes is not None and pool.opens >= pool.closes:
        raise invalid(f"{field}.registration.end_time", "must be after its start")
    return replace(pool, share=share, seats=seats), seats


def _check_category(
    category: Category, spec: Spec, lists: Mapping[UUID, SealedList], fee: int, field: str
) -> None:
    _check_name(category.display_name, f"{field}.display_name")
    if isinstance(category.schedule.kind, Milestones):
        raise not_implemented(f"{field}.schedule.milestones", "unlocking by milestones")
    vesting_rules.check(category.schedule, category.amount, f"{field}.schedule")
    start = spec.start if category.start is None else category.start
    if start is not None:
        vesting_rules.check_times(category.schedule, start, f"{field}.schedule")
    if category.start is not None and spec.start is not None and category.start < spec.start:
        raise invalid(f"{field}.start_time", "must not be before the distribution's start")
    _check_claimable(category, lists, fee, field)
    if isinstance(category.source, Pool):
        closes, end = category.source.closes, spec.end
        if closes is not None and end is not None and closes > end:
            problem = "must not be after the distribution's end"
            raise invalid(f"{field}.pool.registration.end_time", problem)


def _check_claimable(
    category: Category, lists: Mapping[UUID, SealedList], fee: int, field: str
) -> None:
    """Whoever is allocated no more than the fee could never claim it (F-47)."""
    match category.source:
        case Whitelist(recipients):
            smallest, field = min(r.amount for r in recipients), f"{field}.whitelist.recipients"
        case Listed(list_id):
            smallest, field = lists[list_id].smallest, f"{field}.recipient_list"
        case Pool(share=share):
            smallest, field = share or 0, f"{field}.pool"
        case _:
            assert_never(category.source)
    if 0 < smallest <= fee:
        problem = f"allocates {smallest} to somebody; claiming costs a fee of {fee}"
        raise invalid(field, problem, "AMOUNT_BELOW_FEE")


def _check_total(spec: Spec) -> None:
    if spec.total < 1:
        raise invalid("spec.total_amount", "must be at least 1", "INVALID_AMOUNT")
    allocated = sum(category.amount for category in spec.categories)
    if allocated != spec.total:
        problem = f"is {spec.total}, but the categories allocate {allocated}"
        raise invalid("spec.total_amount", problem, "ALLOCATIONS_DO_NOT_SUM")


def _check_campaign(spec: Spec) -> None:
    kinds = [category.schedule.kind for category in spec.categories]
    if spec.campaign is Campaign.VESTING and all(isinstance(kind, Instant) for kind in kinds):
        raise invalid("spec.campaign_type", "is vesting, but every category is instant")
    if spec.campaign is Campaign.PUBLIC and not (spec.public and any(spec.pools)):
        raise invalid("spec.campaign_type", "is public; then it must be public and have a pool")


def _check_order_of_times(spec: Spec) -> None:
    if spec.start is not None:
        _check_over(spec, spec.start)
    end, deadline = spec.end, spec.claim_deadline
    if end is not None and deadline is not None and deadline < end:
        raise invalid("spec.claim_deadline", "must not be before the end")


def _check_over(spec: Spec, start: int) -> None:
    """Nothing is over before everything is unlocked."""
    unlocked = last_unlock(spec, start)
    for field, time in (("end_time", spec.end), ("claim_deadline", spec.claim_deadline)):
        if time is not None and time <= start:
            raise invalid(f"spec.{field}", "must be after the start")
        if time is not None and time < unlocked:
            problem = "must not be before everything is unlocked"
            raise invalid(f"spec.{field}", problem, "OVER_BEFORE_UNLOCKED")


def _check_early_unlock(terms: EarlyUnlock | None) -> None:
    if terms is None:
        return
    field = "spec.early_unlock"
    if not 0 <= terms.penalty <= vesting_rules.WHOLE:
        raise invalid(f"{field}.penalty_basis_points", "must be 0 to 10,000")
    if terms.recipient:
        _check_principal(terms.recipient, f"{field}.penalty_recipient")
    if not 0 <= terms.minimum_lock <= vesting_rules.LONGEST:
        raise invalid(f"{field}.minimum_lock", "must be 0 to 10 years")


def _check_claim_rate(rate: ClaimRate | None) -> None:
    if rate is None:
        return
    if not 1 <= rate.claims <= MAX_RATE:
        raise invalid("spec.claim_rate.max_claims", f"must be 1 to {MAX_RATE}")
    _check_span(rate.window, RATE_WINDOW, "spec.claim_rate.window", "1 s to 30 days")


def _check_span(span: int, bounds: tuple[int, int], field: str, words: str) -> None:
    if not bounds[0] <= span <= bounds[1]:
        raise invalid(field, f"must be {words}")


def _check_name(name: str, field: str) -> None:
    if len(name.strip()) not in NAME_LENGTH:
        raise invalid(field, "must have 3 to 100 characters")


def lists_of(spec: Spec) -> Sequence[UUID]:
    """The recipient lists that a spec uses."""
    return [c.source.list_id for c in spec.categories if isinstance(c.source, Listed)]


def without_names(spec: Spec) -> Spec:
    """The spec as it is kept: whom it names is in allocations."""
    categories = tuple(
        replace(category, source=Whitelist())
        if isinstance(category.source, Whitelist)
        else category
        for category in spec.categories
    )
    return replace(spec, categories=categories)


def list_unusable(field: str, problem: str) -> Error:
    """A recipient list cannot be used so."""
    return invalid(field, problem, "RECIPIENT_LIST_UNUSABLE")


def not_implemented(field: str, what: str) -> Error:
    """What the domain knows but nobody has built is refused when it is asked for (F-37)."""
    return invalid(field, f"asks for {what}, which is not implemented", "NOT_IMPLEMENTED")


def named(spec: Spec) -> Iterator[tuple[int, Recipient]]:
    """Every recipient that the spec names, with the category."""
    return chain.from_iterable(
        ((category.id, recipient) for recipient in category.source.recipients)
        for category in spec.categories
        if isinstance(category.source, Whitelist)
    )
