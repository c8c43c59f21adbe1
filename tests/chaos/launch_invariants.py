"""What must hold of launches whatever was killed, as the databases have it.

Each function gives a line for each thing that is not as it should be.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

from contract.principal import DEFAULT_SUBACCOUNT
from icto.backend.v1 import launches_pb2 as pb
from services.backend.launches.domain import BASE_FEE, CREATE_TOKEN, Shape
from services.invoice_storage.messages import decode_lines
from services.kit.money.escrow import account_of
from tests.chaos import invariants
from tests.chaos.scenario import Connection
from tests.support.launches import FEE, SUPPLY

_SUCCEEDED, _FAILED, _CANCELLED = 2, 3, 4
_STEP_SUCCEEDED: Final = 4
_ACTIVE_TOKEN, _ABANDONED_TOKEN = 5, 9
_NOT_CHARGED: Final = 3
_REFUND_COMPLETED: Final = 4
_LOCKED: Final = frozenset({3, 4, 5, 7, 8})
_DISTRIBUTED: Final = frozenset({2, 3, 4, 5})

_LAUNCHES: Final = """
SELECT l.id, l.owner, l.spec, l.shape, l.token, p.state, t.id AS token_id,
    t.state AS token_state, pay.id AS payment, pay.state AS payment_state, pay.amount,
    pay.lines, pay.delivered_amount, pay.refunded_amount, r.state AS refund_state,
    r.amount AS refund_amount
FROM backend.launches AS l
JOIN backend.kit_pipelines AS p ON p.id = l.id
LEFT JOIN token_deployer.tokens AS t ON t.operation = 'launches/' || l.id
LEFT JOIN invoice_storage.payments AS pay ON pay.operation = 'launches/' || l.id
LEFT JOIN invoice_storage.refunds AS r ON r.payment_id = pay.id AND r.state NOT IN (6, 7)
"""
_STEPS: Final = """
SELECT pipeline_id, name, result FROM backend.kit_steps
WHERE state = 4 AND result <> '' AND pipeline_id IN (SELECT id FROM backend.launches)
"""
_PARTS: Final = """
SELECT operation, state FROM lock_deployer.locks
UNION ALL SELECT operation, state + 100 FROM distribution_deployer.distributions
"""


async def of_launches(connection: Connection) -> list[str]:
    """Each part is delivered XOR refunded, and nobody delivered what nobody knows of."""
    delivered: dict[UUID, dict[str, str]] = defaultdict(dict)
    for row in await connection.fetch(_STEPS):
        given_up = row["name"].removeprefix("abandon_")
        step = CREATE_TOKEN if given_up == "token" else given_up
        delivered[row["pipeline_id"]][step] = row["result"].decode()
    parts = {r["operation"]: r["state"] for r in await connection.fetch(_PARTS)}
    found = [
        f"launches/{row['id']}: {problem}"
        for row in await connection.fetch(_LAUNCHES)
        for problem in _of_launch(row, delivered[row["id"]], parts)
    ]
    return invariants.first("launches", found)


def _of_launch(row: Any, known: Mapping[str, str], parts: Mapping[str, int]) -> Iterator[str]:
    shape = Shape.decode(row["shape"])
    if row["state"] not in (_SUCCEEDED, _FAILED, _CANCELLED):
        yield f"its pipeline is in state {row['state']}"
        return
    delivered = [step for step in shape.paid_steps if step in known]
    if (row["token_state"] == _ACTIVE_TOKEN) is not (CREATE_TOKEN in known):
        yield f"token state {row['token_state']}, delivered {delivered}"
    for part in shape.parts:
        state = parts.get(f"launches/{row['id']}/steps/{part}", 0)
        there = state in _LOCKED or state - 100 in _DISTRIBUTED
        if there is not (part in known):
            yield f"{part} is in state {state}, delivered {delivered}"
    if row["payment_state"] in (None, _NOT_CHARGED):
        if delivered:
            yield f"delivered {delivered} without a charge"
        return
    shares = {line.step: line.amount for line in decode_lines(row["lines"])}
    kept = sum(shares[step] for step in [*delivered, BASE_FEE]) if delivered else 0
    if row["delivered_amount"] != kept or row["refunded_amount"] != row["amount"] - kept:
        yield f"delivered {delivered}, kept {row['delivered_amount']} of {row['amount']}"
    if row["refunded_amount"] and row["refund_state"] != _REFUND_COMPLETED:
        yield f"its refund is in state {row['refund_state']}"
    if (row["refund_amount"] or 0) != row["refunded_amount"]:
        yield f"{row['refunded_amount']} is owed, {row['refund_amount']} went back"


async def of_escrows(connection: Connection) -> list[str]:
    """What was delivered lies where it belongs, to the unit; the rest is the owner's, or waits."""
    balances: dict[tuple[UUID, str, bytes], int] = {
        (r["ledger_id"], r["owner"], r["subaccount"]): int(r["balance"])
        for r in await connection.fetch("SELECT * FROM ledger.balances")
    }
    found: list[str] = []
    parts = {r["operation"]: r["state"] for r in await connection.fetch(_PARTS)}
    for row in await connection.fetch(_LAUNCHES):
        if row["token_state"] == _ACTIVE_TOKEN:
            problems = _of_escrow(row, parts, balances)
            found += [f"launches/{row['id']}: {problem}" for problem in problems]
    return invariants.first("escrows", found)


def _of_escrow(
    row: Any, parts: Mapping[str, int], balances: Mapping[tuple[UUID, str, bytes], int]
) -> Iterator[str]:
    shape, spec = Shape.decode(row["shape"]), pb.LaunchSpec.FromString(row["spec"])
    ledger, name = row["token_id"], f"launches/{row['id']}"
    amounts = [int(lock.total_amount) for lock in spec.locks]
    amounts += [int(distribution.total_amount) for distribution in spec.distributions]
    taken, missing = 0, 0
    for part, amount in zip(shape.parts, amounts, strict=True):
        operation = f"{name}/steps/{part}"
        keeper = "lock_deployer" if part.startswith("lock") else "distribution_deployer"
        holds = balances.get((ledger, *account_of(keeper, operation)), 0)
        state = parts.get(operation, 0)
        there = state in _LOCKED or state - 100 in _DISTRIBUTED
        taken, missing = (taken + amount + FEE, missing) if there else (taken, missing + 1)
        if holds != (amount if there else 0):
            yield f"{part} holds {holds} of {amount}, in state {state}"
    escrow = balances.get((ledger, *account_of("backend", name)), 0)
    owner = balances.get((ledger, row["owner"], DEFAULT_SUBACCOUNT), 0)
    rest = SUPPLY - taken
    if row["state"] == _SUCCEEDED:
        if (escrow, owner) != (0, rest - FEE):
            yield f"the escrow holds {escrow}, the owner {owner} of {rest}"
    elif owner or not rest - 2 * FEE * missing <= escrow <= rest:
        yield f"it is partial; the escrow holds {escrow}, the owner {owner} of {rest}"


async def of_changes(connection: Connection) -> list[str]:
    """The log of each launch counts from 1 without a gap, and its last change is the end."""
    rows = await connection.fetch(
        "SELECT p.id, p.sequence, p.state, count(c.sequence) AS changes,"
        " max(c.sequence) AS last,"
        " max(c.state) FILTER (WHERE c.step = '' AND c.sequence = p.sequence) AS end"
        " FROM backend.launches AS l JOIN backend.kit_pipelines AS p ON p.id = l.id"
        " LEFT JOIN backend.kit_changes AS c ON c.pipeline_id = p.id GROUP BY p.id"
    )
    found = [
        f"launches/{r['id']}: {r['changes']} changes up to {r['last']}, ends as {r['end']}"
        for r in rows
        if not r["changes"] == r["last"] == r["sequence"] or r["end"] != r["state"]
    ]
    return invariants.first("changes", found)
