"""Who stands behind somebody who holds a role: they themselves, or whoever gave it to them lately.

An act that takes two people takes one, if that one can make the second. So a role that is younger
than a day speaks for who gave it, and one that came by a bootstrap key, or since what it is about
began, for nobody. A day is long enough for others to see in the audit what is going on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from contract.roles import permission_holders

PROBATION: Final = timedelta(hours=24)
"""How long a role speaks for who gave it."""
_GIVES: Final = "MANAGE_ADMINS"


@dataclass(frozen=True, slots=True)
class Grant:
    """A role that somebody holds. `granted_by` is no principal where it came by a bootstrap key."""

    principal: str
    role: str
    granted_by: str
    grant_time: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """Whom somebody speaks for.

    Attributes:
        origin: a principal; empty for nobody.
        counts_from: from when on they speak for themselves; None when they do, or never will.
    """

    origin: str
    counts_from: datetime | None = None


@dataclass(frozen=True, slots=True)
class People:
    """Some people, and who gave their roles to them and to those.

    Attributes:
        grants: all that is known of their roles.
        inactive: who of them is suspended or banned.
    """

    grants: Sequence[Grant] = ()
    inactive: frozenset[str] = frozenset()

    def may(self, who: str, permission: str) -> bool:
        """Whether somebody holds a permission now, for instance "EMERGENCY_STOP"."""
        return bool(self._holding(who, permission)) and who not in self.inactive

    def standing(
        self, who: str, permission: str, now: datetime, since: datetime | None = None
    ) -> Standing:
        """Whom somebody speaks for who uses a permission.

        Args:
            who: their principal.
            permission: that they need, for instance "EMERGENCY_STOP".
            now: the time.
            since: when what they do it about began; roles from after it speak for nobody.
        """
        if not self.may(who, permission):
            return Standing("")
        return self._standing(who, permission, now, since, frozenset())

    def _standing(
        self,
        who: str,
        permission: str,
        now: datetime,
        since: datetime | None,
        below: frozenset[str],
    ) -> Standing:
        held = self._holding(who, permission)
        if not held or who in below:
            return Standing("")
        if held[0].grant_time + PROBATION <= now:
            return Standing(who)
        counts_from = held[0].grant_time + PROBATION
        for grant in held:
            if since is None or grant.grant_time <= since:
                giver = self._standing(grant.granted_by, _GIVES, now, None, below | {who})
                if giver.origin:
                    return Standing(giver.origin, counts_from)
        return Standing("", counts_from)

    def _holding(self, who: str, permission: str) -> Sequence[Grant]:
        """Somebody's roles that hold a permission, the oldest first."""
        roles = permission_holders(permission)
        held = (one for one in self.grants if one.principal == who and one.role in roles)
        return sorted(held, key=lambda one: one.grant_time)
