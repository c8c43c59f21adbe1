"""The table of who may call what (tests/authorization.toml), and how a line of it is read."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contract.method import Method
from contract.model import Contract

TABLE: Final = Path(__file__).parents[1] / "authorization.toml"
ROLES: Final = ("READ_ONLY", "SUPPORT", "MODERATOR", "ADMIN", "SUPER_ADMIN")
COLUMNS: Final = ("anonymous", "user", "owner", *ROLES, "suspended")
PEOPLE: Final = ("user", *ROLES)
_UPON: Final = "upon"
INSIDE: Final = "inside"
OK: Final = "ok"
NOBODY, EVERY_SERVICE = "-", "*"


@dataclass(frozen=True, slots=True)
class Line:
    """What one method answers to whom.

    Attributes:
        cells: by column; `ok`, or the HTTP status of the refusal.
        services: mesh names of those that may call, or `*`.
    """

    cells: Mapping[str, str]
    services: frozenset[str]

    @property
    def inside(self) -> bool:
        """Whether nobody outside may call at all."""
        return set(self.cells.values()) == {"501"}

    def admits_service(self, mesh_name: str) -> bool:
        """Whether a mesh identity may call; `*` is every service, and not the operator."""
        everyone = EVERY_SERVICE in self.services and mesh_name != "operator"
        return everyone or mesh_name in self.services


def read() -> dict[str, Line]:
    """The table."""
    return {name: _parse(name, text) for name, text in _table().items() if name != _UPON}


def upon() -> dict[str, dict[str, dict[str, str]]]:
    """The table of acts upon people: by method, by the caller's role, by the other's."""
    return {
        method: {role: _cells(f"{method}, {role}", text) for role, text in lines.items()}
        for method, lines in _table()[_UPON].items()
    }


def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text())


def _cells(name: str, text: str) -> dict[str, str]:
    words = text.split()
    assert len(words) == len(PEOPLE), f"{name}: {len(words)} cells, not {len(PEOPLE)}"
    return dict(zip(PEOPLE, words, strict=True))


def _parse(name: str, text: str) -> Line:
    outside, _, services = text.partition("|")
    words = outside.split()
    if words == [INSIDE]:
        words = ["501"] * len(COLUMNS)
    assert len(words) == len(COLUMNS), f"{name}: {len(words)} cells, not {len(COLUMNS)}"
    named = frozenset(services.split()) - {NOBODY}
    return Line(dict(zip(COLUMNS, words, strict=True)), named)


def missing(contract: Contract, table: Mapping[str, Line]) -> list[str]:
    """A line to add for each method that has none, as its policy reads.

    Check each cell against what was meant before adding it: a table that is copied from the
    contract tests nothing.
    """
    return [_proposal(m) for m in contract.methods() if m.full_name not in table]


def _proposal(method: Method) -> str:
    audience = method.audience
    services = " ".join(sorted(audience.services)) or NOBODY
    if not audience.from_outside:
        return f'"{method.full_name}" = "{INSIDE} | {services}"'
    stranger = "404" if audience.owner else "403"
    everyone = audience.public or audience.user
    cells = {
        "anonymous": OK if audience.public else "401",
        "user": OK if everyone else stranger,
        "owner": OK if everyone or audience.owner else stranger,
        **{role: OK if everyone or role in audience.roles else stranger for role in ROLES},
    }
    cells["suspended"] = cells["owner"] if method.allowed_when_suspended else "403"
    line = " ".join(f"{cells[column]:3}" for column in COLUMNS)
    return f'"{method.full_name}" = "{line} | {services}"'
