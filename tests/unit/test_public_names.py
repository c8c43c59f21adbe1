"""Names that others know stay what they are, however the code inside is called."""

import difflib

from tests.support.public_names import FILE, public_names


def test_every_name_that_leaves_a_process_or_is_stored_is_the_listed_one() -> None:
    listed, found = FILE.read_text().splitlines(), public_names().splitlines()
    changed = [
        line
        for line in difflib.unified_diff(listed, found, "listed", "found", n=0, lineterm="")
        if not line.startswith("@@")
    ]
    assert not changed, "\n".join((*changed, "see tests/support/public_names.py"))
