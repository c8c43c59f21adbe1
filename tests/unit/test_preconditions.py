"""Which conditions hold for which etag."""

import pytest

from contract.errors import Code
from services.kit.serving.preconditions import failed, matches


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("*", True),
        (" * ", True),
        ('"3"', True),
        ('"2","3"', True),
        ('"2" , "3" , "4"', True),
        ('W/"2", "3"', True),
        ("3", True),
        ("2, 3", True),
        ('W/"3"', False),
        ('w/"3"', False),
        ('"2"', False),
        ('"2, 3"', False),
        ('"23"', False),
        ('"3', False),
        ('3"', False),
        ('"*"', False),
        ("", False),
        (",", False),
        ('""', False),
    ],
)
def test_a_condition_holds_for_the_etag_that_it_names(condition: str, holds: bool) -> None:
    assert matches(condition, '"3"') is holds


def test_its_failure_is_told_by_a_reason_of_its_own() -> None:
    assert (failed().code, failed().reason) == (Code.FAILED_PRECONDITION, "IF_MATCH_FAILED")
