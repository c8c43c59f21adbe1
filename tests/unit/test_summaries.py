"""A statement's summary names what it does to which table, and no value."""

import pytest

from services.kit.storage.database import summarize
from services.ledger import store


@pytest.mark.parametrize(
    ("query", "summary"),
    [
        ("SELECT id FROM tokens WHERE id = $1", "SELECT tokens"),
        ("\ninsert INTO kit_outbox (event) VALUES ($1)", "INSERT kit_outbox"),
        ("COPY recipients", "COPY recipients"),
        ("SELECT kit_now()", "SELECT"),
        ("SELECT extract(epoch FROM kit_now()) FROM ledgers", "SELECT ledgers"),
        ("SELECT EXISTS (SELECT FROM tokens WHERE id = $1)", "SELECT tokens"),
        ("WITH a AS (INSERT INTO locks VALUES ($1)) UPDATE kit_answers SET b = $2", "WITH locks"),
        (store._BOOK, "SELECT ledgers"),
    ],
)
def test_a_summary_is_a_verb_and_a_table(query: str, summary: str) -> None:
    assert summarize(query) == summary
