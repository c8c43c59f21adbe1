"""What is made or named in one place stays there."""

from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = [
    path
    for package in ("contract", "gateway", "mesh", "observability", "services")
    for path in (ROOT / package).rglob("*.py")
]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("events.Event(subject=", {"services/kit/audit/audit_events.py"}),
        ("events.Act(\n", {"services/kit/serving/call.py", "services/kit/audit/operations.py"}),
        ('"ledgers/icp"', {"contract/ids.py"}),
        (
            "wire.HEADER_ON_BEHALF_OF, ",
            {"services/kit/calling/client.py", "services/kit/serving/identity.py"},
        ),
    ],
)
def test_it_stands_in_one_place(text: str, places: set[str]) -> None:
    """Of an act there are two makers: a call, and what ends later without one."""
    found = {path.relative_to(ROOT).as_posix() for path in SOURCES if text in path.read_text()}
    assert found == places
