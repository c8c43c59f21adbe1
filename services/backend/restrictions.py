"""What holds the platform up: since when, by whom, and who has to agree to its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.backend import config_store, release_rules
from services.backend.config_store import Revision, Wish
from services.kit.roles.register import Register
from services.kit.roles.standing_rules import Standing
from services.kit.storage import Connection, Database

_RELEASES: Final = "EMERGENCY_STOP"


@dataclass(frozen=True, slots=True)
class Stop:
    """An emergency stop, or that there is none.

    Attributes:
        began: with what it began; None when there is none.
        wishes: who asks for its end and may.
        standings: whom each of them speaks for.
    """

    began: Revision | None = None
    wishes: Sequence[Wish] = ()
    standings: Mapping[str, Standing] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """How many people still have to ask."""
        return (
            max(1, release_rules.PEOPLE - release_rules.independent(self.standings))
            if self.began
            else 0
        )


async def maintenance(database: Database) -> Revision | None:
    """With what the maintenance began that is on now; None when it is off."""
    return await config_store.beginning(database, lambda config: config.maintenance_mode)


async def stop(connection: Database | Connection, register: Register, caller: str = "") -> Stop:
    """The stop that is in force, and who asks for its end; `caller` counts as one who may.

    Raises:
        Error: the gateway does not say who may.
    """
    began = await config_store.beginning(connection, lambda config: config.emergency_stop)
    now, wishes = await config_store.release_wishes(connection, release_rules.WINDOW)
    if not wishes:
        return Stop(began)
    people = await register.people(wish.principal for wish in wishes)
    allowed = [
        wish for wish in wishes if wish.principal == caller or people.may(wish.principal, _RELEASES)
    ]
    since = began.time if began else None
    return Stop(
        began,
        allowed,
        {w.principal: people.standing(w.principal, _RELEASES, now, since) for w in allowed},
    )
