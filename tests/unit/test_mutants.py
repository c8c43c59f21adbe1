"""The table of mutants fits the project: a guard that moved, or a test that was renamed, shows."""

import re

import pytest

from tests.mutants.table import MUTANTS, Mutant
from tests.mutants.trial import PROJECT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.guard)
def test_every_guard_stands_where_the_table_says(mutant: Mutant) -> None:
    text = (PROJECT / mutant.file).read_text()
    assert text.count(mutant.before) == 1
    assert mutant.after != mutant.before
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        source = (PROJECT / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), test


def test_every_guard_is_taken_away_once() -> None:
    guards = [mutant.guard for mutant in MUTANTS]
    assert len(set(guards)) == len(guards)
    assert len(MUTANTS) >= 10
