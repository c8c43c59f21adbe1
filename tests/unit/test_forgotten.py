"""A kind or a state that is new, and forgotten where it is decided, does not type-check."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.type_check import complaints

_CLASS: Final = "@dataclass(frozen=True, slots=True)\nclass Forgotten:\n    x: int\n\n\n"
_RULES: Final = "services/kit/vesting/vesting_rules.py"
_DISTRIBUTION: Final = "services/distribution_deployer/"
_STATES: Final = (
    (f"{_DISTRIBUTION}domain.py", "    ABANDONED = 7\n", 3),
    ("services/lock_deployer/domain.py", "    ABANDONED = 9\n", 1),
    ("services/invoice_storage/domain.py", "    REFUNDED = 5\n", 1),
    ("services/kit/journal/model.py", "    QUEUED = 6\n", 1),
)


@pytest.mark.timeout(300)  # where mypy has no cache yet
def test_what_is_forgotten_does_not_type_check(tmp_path: Path) -> None:
    """A schedule that unlocked nothing, or a source that owed nothing, would lock money up."""
    told = complaints(
        {
            _RULES: (("Kind = Instant |", f"{_CLASS}Kind = Forgotten | Instant |"),),
            f"{_DISTRIBUTION}domain.py": (
                ("    ABANDONED = 7\n", "    ABANDONED = 7\n    FORGOTTEN = 8\n"),
                ("Source = Whitelist |", f"{_CLASS}Source = Forgotten | Whitelist |"),
            ),
            **{
                path: ((last, f"{last}    FORGOTTEN = 99\n"),)
                for path, last, _ in _STATES
                if path != f"{_DISTRIBUTION}domain.py"
            },
        },
        tmp_path,
    )
    assert all("assert_never" in message for _, message in told)
    kinds = [path for path, message in told if '"Forgotten"' in message]
    assert {
        _RULES,
        "services/kit/vesting/vesting_messages.py",
        *(
            f"{_DISTRIBUTION}{name}.py"
            for name in (
                "domain",
                "spec_rules",
                "claim_rules",
                "messages",
                "store",
                "money",
                "keeping",
                "service",
            )
        ),
    } == set(kinds)
    states = [path for path, message in told if "FORGOTTEN" in message]
    assert {path: states.count(path) for path, _, _ in _STATES} == {
        path: decisions for path, _, decisions in _STATES
    }
