"""Whom a role speaks for, and what takes two people."""

from datetime import UTC, datetime, timedelta

import pytest

from contract.errors import Error
from services.backend import release_rules
from services.kit.roles.standing_rules import PROBATION, Grant, People, Standing
from services.lock_deployer import domain as locks

NOW = datetime(2026, 1, 10, tzinfo=UTC)
STOP = NOW - timedelta(hours=1)
OLD, BEFORE, AFTER = NOW - PROBATION, STOP - timedelta(hours=1), STOP + timedelta(minutes=1)
BOOTSTRAP = "bootstrap"


def people(*grants: tuple[str, str, str, datetime], inactive: tuple[str, ...] = ()) -> People:
    return People(tuple(Grant(*grant) for grant in grants), frozenset(inactive))


def standing(known: People, who: str = "ben") -> Standing:
    return known.standing(who, "EMERGENCY_STOP", NOW, STOP)


ANN = ("ann", "SUPER_ADMIN", BOOTSTRAP, OLD)


@pytest.mark.parametrize(
    ("grants", "origin", "since"),
    [
        ([], "", None),
        ([("ben", "SUPPORT", "ann", OLD)], "", None),
        ([("ben", "ADMIN", "ann", OLD)], "ben", None),
        ([("ben", "ADMIN", BOOTSTRAP, OLD)], "ben", None),
        ([("ben", "ADMIN", "ann", OLD + timedelta(seconds=1))], "ann", OLD),
        ([("ben", "ADMIN", "ann", BEFORE)], "ann", BEFORE),
        ([("ben", "ADMIN", "ann", STOP)], "ann", STOP),
        ([("ben", "ADMIN", "ann", AFTER)], "", AFTER),
        ([("ben", "ADMIN", BOOTSTRAP, BEFORE)], "", BEFORE),
        ([("ben", "ADMIN", "gone", BEFORE)], "", BEFORE),
        ([("ben", "ADMIN", "ann", OLD), ("ben", "SUPER_ADMIN", "ann", AFTER)], "ben", None),
        ([("ben", "ADMIN", "ann", AFTER), ("ben", "SUPER_ADMIN", "ann", BEFORE)], "ann", BEFORE),
        ([("ben", "ADMIN", "cat", BEFORE), ("cat", "SUPER_ADMIN", "ann", BEFORE)], "ann", BEFORE),
        ([("ben", "ADMIN", "cat", BEFORE), ("cat", "SUPER_ADMIN", BOOTSTRAP, BEFORE)], "", BEFORE),
        ([("ben", "ADMIN", "cat", BEFORE), ("cat", "SUPER_ADMIN", "ben", BEFORE)], "", BEFORE),
        ([("ben", "ADMIN", "cat", BEFORE), ("cat", "SUPER_ADMIN", "ann", OLD)], "cat", BEFORE),
    ],
)
def test_a_role_speaks_for_who_gave_it_until_it_is_a_day_old(
    grants: list[tuple[str, str, str, datetime]], origin: str, since: datetime | None
) -> None:
    found = standing(people(ANN, *grants))
    if since is not None and since != OLD:
        assert found == Standing(origin, since + PROBATION)
    else:
        assert found.origin == origin
        assert (found.counts_from is None) == (since is None)


def test_who_is_suspended_speaks_for_nobody_and_whom_they_made_for_them() -> None:
    known = people(ANN, ("ben", "ADMIN", "ann", BEFORE), inactive=("ann",))
    assert standing(known, "ann") == Standing("")
    assert standing(known).origin == "ann"


LATER = NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("others", "own", "released", "since", "words"),
    [
        ({}, Standing("ann"), False, None, "Another administrator"),
        ({"ben": Standing("ben")}, Standing("ann"), True, None, ""),
        ({}, Standing("", LATER), False, LATER, "count from 2026-01-10T01:00:00Z"),
        ({}, Standing(""), False, None, "no role any more"),
        ({"ben": Standing("ben")}, Standing("", LATER), False, LATER, "bootstrap key"),
        ({"ben": Standing("ben")}, Standing("ben", LATER), False, LATER, "came from ben"),
        ({"ben": Standing("ann", LATER)}, Standing("ann"), False, LATER, "ben asked, too"),
        ({"ben": Standing("")}, Standing("ann"), False, None, "ben asked, too"),
        ({"ben": Standing("ann"), "cat": Standing("dan")}, Standing("ann"), True, None, ""),
        ({}, Standing("ben", LATER), False, None, "Another administrator"),
    ],
)
def test_a_stop_ends_when_two_have_asked_who_speak_for_two(
    others: dict[str, Standing], own: Standing, released: bool, since: datetime | None, words: str
) -> None:
    decision = release_rules.decide("ann", {"ann": own, **others})
    assert (decision.released, decision.counts_from) == (released, since)
    assert words in decision.explanation
    assert bool(decision.explanation) == bool(words)


@pytest.mark.parametrize(
    ("actor", "whom", "administrators", "refused"),
    [
        ("ann", Standing("ann"), False, True),
        ("ann", Standing("ann"), True, True),
        ("ben", Standing("ben"), True, False),
        ("ben", Standing("ann", LATER), True, True),
        ("ben", Standing("", LATER), True, True),
        ("ben", Standing(""), True, True),
        ("ben", Standing("", LATER), False, False),
        ("ben", Standing("dan", LATER), True, False),
    ],
)
def test_whoever_benefits_from_a_lock_leaves_it_to_another(
    actor: str, whom: Standing, administrators: bool, refused: bool
) -> None:
    having = frozenset({"ann", "cat"})
    if not refused:
        locks.check_disinterested(actor, whom, having, administrators=administrators)
        return
    with pytest.raises(Error) as caught:
        locks.check_disinterested(actor, whom, having, administrators=administrators)
    assert caught.value.reason == "LOCK_BENEFICIARY"
    assert ("2026-01-10T01:00:00Z" in caught.value.message) == (
        actor == "ben" and whom.counts_from is not None
    )
