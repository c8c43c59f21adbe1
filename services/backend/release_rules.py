"""The rule of two people: when an emergency stop ends, and what who asked for it is told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.kit.roles.standing_rules import Standing

PEOPLE: Final = 2
WINDOW: Final = timedelta(minutes=15)
"""How long a request counts."""
ANOTHER: Final = (
    "Another administrator has to ask as well within 15 minutes; it is stopped until then."
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What comes of a request to end the stop.

    Attributes:
        released: whether it ends.
        people: how many independent people have asked by now.
        explanation: why not, and what is missing.
        counts_from: when whoever it hangs on will count; None when that is not known.
    """

    released: bool
    people: int
    explanation: str = ""
    counts_from: datetime | None = None


def decide(caller: str, standings: Mapping[str, Standing]) -> Decision:
    """Decides on a request.

    Args:
        caller: who asked last.
        standings: of everybody whose request is open, the caller's among them, by principal.
    """
    people = independent(standings)
    if people >= PEOPLE:
        return Decision(released=True, people=people)
    own, others = standings[caller], standings.keys() - {caller}
    explanation, counts_from = "", None
    if not own.origin:
        explanation, counts_from = _uncounted(own), own.counts_from
    elif others and own.counts_from:
        explanation = (
            f"Your role came from {own.origin} within the last 24 hours; beside them, and others"
            f" who have it from them, you count from {_at(own.counts_from)}."
        )
        counts_from = own.counts_from
    elif others:
        counts_from = _first(standings[other].counts_from for other in others)
        explanation = (
            f"{', '.join(sorted(others))} asked, too, and does not count: their role is from you,"
            " from after the stop began or by a bootstrap key, and younger than 24 hours"
            + (f"; they count from {_at(counts_from)}." if counts_from else ".")
        )
    return Decision(False, people, explanation or ANOTHER, counts_from)


def independent(standings: Mapping[str, Standing]) -> int:
    """How many people who do not speak for one another have asked."""
    return len({one.origin for one in standings.values() if one.origin})


def _uncounted(own: Standing) -> str:
    if own.counts_from is None:
        return "You hold no role any more that may release the stop."
    return (
        "Your role came after the stop began, or by a bootstrap key, within the last 24 hours; you"
        f" count from {_at(own.counts_from)}."
    )


def _first(times: Iterable[datetime | None]) -> datetime | None:
    return min((time for time in times if time is not None), default=None)


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
