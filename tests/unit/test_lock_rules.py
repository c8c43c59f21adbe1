"""What a lock may be, what of it is unlocked, and how it moves (domain 2.3)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import principal
from contract.errors import Code, Error
from icto.lock.v1 import lock_pb2
from services.kit.vesting import vesting_rules
from services.kit.vesting.vesting_rules import (
    DAY,
    SECOND,
    YEAR,
    Custom,
    Instant,
    Linear,
    Milestone,
    Milestones,
    Schedule,
    Unlock,
)
from services.lock_deployer import domain, messages
from services.lock_deployer.domain import (
    DELIVERED,
    VESTING,
    WAITING,
    Attestation,
    Beneficiary,
    Claim,
    Lock,
    LockSpec,
    LockType,
    Share,
    State,
    Times,
)

NOW = 1_800_000_000 * SECOND
FEE = 10
ANN, BEN, CAT = (principal.of_public_key(bytes([n]) * 32) for n in (1, 2, 3))
YEARLY = Schedule(Linear(YEAR))
SPEC = LockSpec("Team", 1_000, YEARLY, (Beneficiary(ANN, 400), Beneficiary(BEN, 600)))
STAGES = Schedule(Milestones(CAT, (Milestone("a", 5_000), Milestone("b", 5_000))))
LOCK = Lock(
    UUID(int=1), "launches/x/steps/lock", CAT, "ledgers/x", (CAT, bytes(32)), SPEC, State.LOCKED,
    start=NOW,
)  # fmt: skip


def refused(check: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(Error) as caught:
        check()
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.violations[0][0].removeprefix("spec."), caught.value.reason


def ended(**times: int) -> Lock:
    return replace(LOCK, times=Times(**times))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"display_name": " "}, "display_name"),
        ({"display_name": "x" * 101}, "display_name"),
        ({"total": 0}, "total_amount"),
        ({"schedule": Schedule(Linear(0))}, "schedule.linear.duration"),
        ({"beneficiaries": ()}, "beneficiaries"),
        ({"beneficiaries": (Beneficiary(ANN, 500), Beneficiary(ANN, 500))}, "beneficiaries"),
        ({"beneficiaries": (Beneficiary(ANN, 999),)}, "beneficiaries"),
        ({"beneficiaries": (Beneficiary(ANN, 1_001),)}, "beneficiaries"),
        (
            {"beneficiaries": (Beneficiary(ANN, 1_000 - FEE), Beneficiary(BEN, FEE))},
            "beneficiaries[1].amount",
        ),
        ({"beneficiaries": (Beneficiary("2vxsx-fae", 1_000),)}, "beneficiaries[0].principal"),
        ({"beneficiaries": (Beneficiary(ANN.upper(), 1_000),)}, "beneficiaries[0].principal"),
        (
            {"beneficiaries": (Beneficiary(ANN, 1_000, Schedule(Linear(0))),)},
            "beneficiaries[0].schedule.linear.duration",
        ),
    ],
)
def test_what_cannot_be_locked_is_refused(changes: dict[str, Any], field: str) -> None:
    assert refused(lambda: domain.complete(replace(SPEC, **changes), FEE))[0] == field


def test_a_thousand_beneficiaries_are_allowed_and_no_more() -> None:
    many = [principal.of_public_key(n.to_bytes(32, "big")) for n in range(1_001)]
    for count in (1_000, 1_001):
        named = tuple(Beneficiary(who, 11) for who in many[:count])
        spec = replace(SPEC, total=11 * count, beneficiaries=named)
        if count == 1_000:
            assert domain.complete(spec, FEE) == spec
        else:
            assert refused(partial(domain.complete, spec, FEE))[0] == "beneficiaries"


def test_a_spec_is_brought_into_canonical_form_once() -> None:
    spec = domain.complete(replace(SPEC, display_name="  Gru\u0308n "), FEE)
    assert spec.display_name == "Grün"
    assert domain.complete(spec, FEE) == spec


def test_what_starts_in_the_past_is_refused() -> None:
    domain.check_times(SPEC, NOW)
    domain.check_times(replace(SPEC, start=NOW), NOW)
    past = replace(SPEC, start=NOW - 1)
    assert refused(lambda: domain.check_times(past, NOW)) == ("start_time", "START_IN_THE_PAST")
    far = replace(SPEC, start=NOW + vesting_rules.LONGEST + 1)
    assert refused(lambda: domain.check_times(far, NOW))[0] == "start_time"


def test_every_time_of_every_schedule_is_checked() -> None:
    early = Schedule(Custom((Unlock(NOW - 1, 400),)))
    assert refused(lambda: domain.check_times(replace(SPEC, schedule=early), NOW))[0] == (
        "schedule.custom.unlocks"
    )
    own = replace(SPEC, beneficiaries=(Beneficiary(ANN, 400, early), Beneficiary(BEN, 600)))
    assert refused(lambda: domain.check_times(own, NOW))[0] == (
        "beneficiaries[0].schedule.custom.unlocks"
    )


def test_everybody_has_their_share_of_the_schedule_or_one_of_their_own() -> None:
    own = Share(ANN, 400, schedule=Schedule(Instant()))
    assert domain.unlocked(LOCK, own, NOW) == 400
    assert domain.unlocked(LOCK, Share(BEN, 600), NOW + YEAR // 2) == 300


def test_a_revocation_stops_time() -> None:
    revoked, share = ended(revoke=NOW + YEAR // 2), Share(BEN, 600)
    assert domain.unlocked(revoked, share, NOW + YEAR // 4) == 150
    assert domain.unlocked(revoked, share, NOW + YEAR) == 300
    found = domain.claimable(revoked, replace(share, claimed=100), NOW + YEAR)
    assert (found.claimable, found.next_unlock, found.progress) == (200, None, 5_000)


def test_an_emergency_unlocks_everything() -> None:
    opened, share = ended(unlock=NOW + DAY), Share(BEN, 600, 50)
    assert domain.unlocked(opened, share, NOW + DAY - 1) == 1
    found = domain.claimable(opened, share, NOW + DAY)
    assert (found.claimable, found.progress, found.next_unlock) == (550, 10_000, None)


@given(
    st.lists(st.tuples(st.integers(1, 10**30), st.integers(0, 10_000)), min_size=1, max_size=9),
    st.integers(NOW - DAY, NOW + 2 * YEAR),
)
def test_what_a_revocation_returns_and_what_stays_are_the_whole(
    parts: list[tuple[int, int]], moment: int
) -> None:
    """F-36, F-44: to the unit, even when a claim was ahead of the revocation's clock."""
    shares = [Share(ANN, amount, amount * share // 10_000) for amount, share in parts]
    back = domain.unvested(ended(), shares, moment)
    revoked = ended(revoke=moment)
    kept = sum(
        share.claimed + domain.claimable(revoked, share, NOW + 9 * YEAR).claimable
        for share in shares
    )
    assert back + kept == sum(share.amount for share in shares)


@given(
    st.lists(
        st.tuples(st.integers(FEE + 1, 10**6), st.integers(0, 10_000)), min_size=1, max_size=9
    ),
    st.integers(NOW, NOW + 2 * YEAR),
)
def test_after_a_revocation_nothing_is_left_that_no_claim_could_take(
    parts: list[tuple[int, int]], moment: int
) -> None:
    """F-47: what is unlocked and not more than the fee goes back, too; the whole is conserved."""
    shares = [Share(f"p{at}", amount, amount * s // 10_000) for at, (amount, s) in enumerate(parts)]
    back = domain.dust(ended(), shares, moment, FEE)
    returned = domain.unvested(ended(), shares, moment) + sum(back.values())
    revoked = ended(revoke=moment, seen=NOW + 9 * YEAR)
    total = returned
    for share in shares:
        left = replace(share, returned=back.get(share.owner, 0))
        open_now = domain.claimable(revoked, left, NOW + 9 * YEAR).claimable
        assert open_now == 0 or open_now > FEE
        total += share.claimed + open_now
        if open_now:
            assert domain.amount_to_claim(None, revoked, left, FEE) == open_now
    assert total == sum(share.amount for share in shares)


def test_milestones_unlock_by_the_word_of_their_own_attestor() -> None:
    attested = (Attestation(CAT, "a", NOW + DAY), Attestation(ANN, "b", NOW + DAY))
    staged = replace(LOCK, spec=replace(SPEC, schedule=STAGES), attestations=attested)
    assert domain.unlocked(staged, Share(BEN, 600), NOW + DAY - 1) == 0
    assert domain.unlocked(staged, Share(BEN, 600), NOW + DAY) == 300
    assert domain.attestors(staged.spec) == (CAT,)
    assert domain.has_milestone([YEARLY, STAGES], CAT, "b")
    assert not domain.has_milestone([YEARLY, STAGES], CAT, "c")
    assert not domain.has_milestone([YEARLY, STAGES], ANN, "a")


def test_nothing_is_unlocked_before_there_is_a_start() -> None:
    with pytest.raises(Error) as caught:
        domain.unlocked(replace(LOCK, start=None, state=State.CREATED), Share(ANN, 400), NOW)
    assert caught.value.reason == "LOCK_NOT_ACTIVE"


def test_a_claim_takes_what_was_asked_for_or_everything() -> None:
    half = ended(seen=NOW + YEAR // 2)
    share = Share(BEN, 1_000)
    assert domain.amount_to_claim(None, half, share, FEE) == 500
    assert domain.amount_to_claim(500, half, share, FEE) == 500
    assert domain.amount_to_claim(FEE + 1, half, share, FEE) == FEE + 1


def test_a_claim_leaves_nothing_that_could_never_be_claimed() -> None:
    """F-47: of a lock that was revoked, what was unlocked then is all there is."""
    late, share = ended(seen=NOW + YEAR), Share(BEN, 1_000)
    with pytest.raises(Error, match="Claim at most 989 now, or all 1000"):
        domain.amount_to_claim(1_000 - FEE, late, share, FEE)
    revoked = ended(seen=NOW + YEAR, revoke=NOW + YEAR // 2)
    with pytest.raises(Error, match="Claim at most 489 now, or all 500"):
        domain.amount_to_claim(500 - FEE, revoked, share, FEE)
    assert domain.amount_to_claim(None, revoked, replace(share, claimed=10), FEE) == 490


@pytest.mark.parametrize(
    ("asked", "open_now", "reason"),
    [
        (None, 0, "NOTHING_TO_CLAIM"),
        (5, 0, "NOTHING_TO_CLAIM"),
        (None, FEE, "CLAIM_BELOW_FEE"),
        (FEE, 500, "CLAIM_BELOW_FEE"),
        (501, 500, "EXCEEDS_CLAIMABLE"),
    ],
)
def test_a_claim_that_cannot_be_paid_is_refused(
    asked: int | None, open_now: int, reason: str
) -> None:
    """F-47: not more than the fee is told as that."""
    share = Share(BEN, 1_000, claimed=500 - open_now)
    with pytest.raises(Error) as caught:
        domain.amount_to_claim(asked, ended(seen=NOW + YEAR // 2), share, FEE)
    assert caught.value.reason == reason


def test_claims_move_a_lock_to_its_end() -> None:
    assert domain.after_claim(LOCK, 1) is State.PARTIALLY_CLAIMED
    assert domain.after_claim(replace(LOCK, claimed=999), 1) is State.COMPLETED
    for state in (State.REVOKED, State.EMERGENCY_UNLOCKED):
        assert domain.after_claim(replace(LOCK, state=state), 1) is state


@pytest.mark.parametrize("state", list(State))
def test_only_what_is_vesting_can_be_ended_early(state: State) -> None:
    """F-44: legal transitions are written down, and nothing else happens."""
    allowed = replace(SPEC, revocable=True, emergency_unlock=True)
    lock = replace(LOCK, spec=allowed, state=state)
    for check in (domain.check_revocable, domain.check_unlockable):
        if state in VESTING:
            check(lock)
        else:
            with pytest.raises(Error, match="LOCK_NOT_ACTIVE"):
                check(lock)


def test_what_a_lock_does_not_allow_is_refused() -> None:
    with pytest.raises(Error, match="LOCK_NOT_REVOCABLE"):
        domain.check_revocable(LOCK)
    with pytest.raises(Error, match="EMERGENCY_UNLOCK_NOT_ALLOWED"):
        domain.check_unlockable(LOCK)


@pytest.mark.parametrize(
    ("state", "reason"), [(State.ABANDONED, "OPERATION_ABANDONED"), (State.FAILED, "LOCK_FAILED")]
)
def test_what_was_given_up_or_failed_does_not_become_active(state: State, reason: str) -> None:
    with pytest.raises(Error, match=reason):
        domain.check_activatable(replace(LOCK, state=state))


def test_every_state_is_waiting_delivered_or_given_up() -> None:
    assert WAITING.isdisjoint(DELIVERED)
    assert frozenset(State) == WAITING | DELIVERED | {State.FAILED, State.ABANDONED}


def test_enums_have_the_numbers_of_the_proto() -> None:
    for prefix, ours, theirs in (
        ("LOCK_STATE", State, lock_pb2.LockState),
        ("LOCK_TYPE", LockType, lock_pb2.LockType),
    ):
        names = {f"{prefix}_{one.name}": int(one) for one in ours}
        assert names == {name: number for name, number in theirs.items() if number}


def test_the_steps_of_a_launch_share_their_payment() -> None:
    """F-19: the payment is consumed by the launch, not by one of its steps."""
    assert domain.work_of("launches/1/steps/a") == domain.work_of("launches/1/steps/b")
    assert domain.work_of("launches/1/steps/a") != domain.work_of("launches/2/steps/a")
    assert domain.work_of("deployments/1") == "deployments/1"


def test_accounts_are_looked_at_until_no_transfer_can_arrive() -> None:
    pauses = [domain.next_check(n) for n in range(len(domain.CHECKS) + 1)]
    assert pauses == [*domain.CHECKS, None]
    assert domain.CHECKS[-1] == vesting_rules.DAY


def test_a_spec_survives_its_message() -> None:
    spec = replace(
        SPEC,
        start=NOW,
        type=LockType.TEAM,
        revocable=True,
        emergency_unlock=True,
        beneficiaries=(Beneficiary(ANN, 400, Schedule(Instant())), Beneficiary(BEN, 600)),
    )
    raw = messages.spec_message(spec).SerializeToString()
    assert messages.parse_spec(lock_pb2.LockSpec.FromString(raw)) == spec


@pytest.mark.parametrize("name", ["locks/x", "claims/x", "locks/x/claims/", ""])
def test_malformed_claim_names_are_refused(name: str) -> None:
    with pytest.raises(Error):
        messages.parse_claim_name(name)


@pytest.mark.parametrize(
    ("state", "reason"),
    [(State.ABANDONED, "OPERATION_ABANDONED"), (State.FAILED, "LOCK_FAILED")],
)
def test_a_lock_that_was_given_up_or_failed_never_begins(state: State, reason: str) -> None:
    with pytest.raises(Error) as caught:
        domain.check_activatable(replace(LOCK, state=state))
    assert caught.value.reason == reason


def test_a_lock_that_waits_or_has_begun_may_begin() -> None:
    for state in (State.CREATED, State.FUNDED, State.LOCKED):
        domain.check_activatable(replace(LOCK, state=state))


def test_refusals_say_what_is_missing() -> None:
    """F-58."""
    short, unvested = domain.not_funded(5, 7), domain.nothing_to_revoke(3, FEE)
    assert short.metadata == {"balance": "5", "required": "7"}
    assert unvested.metadata == {"unvested": "3", "fee": str(FEE)}
    assert domain.operation_reused("launches/x").reason == "OPERATION_REUSED"
    assert domain.payment_consumed("payments/x").reason == "PAYMENT_CONSUMED"


def test_of_a_claim_arrives_what_the_fee_leaves() -> None:
    assert Claim(UUID(int=2), LOCK.id, ANN, 100, FEE).net == 90


def test_a_lock_begins_with_what_its_spec_names_and_starts_when_it_is_active() -> None:
    made = domain.created(replace(LOCK, state=State.CREATED, start=None), NOW)
    assert (made.beneficiary_count, made.attestors, made.times.create) == (2, (), NOW)
    for asked, start in ((None, NOW), (NOW + YEAR, NOW + YEAR)):
        funded = replace(made, spec=replace(SPEC, start=asked))
        active = domain.activated(funded)
        assert (active.state, active.start, active.times.activate) == (State.LOCKED, start, NOW)
    assert domain.changed().code is Code.ABORTED
