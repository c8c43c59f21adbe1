"""What must hold whatever was killed, as the databases have it (domain: cross-cutting invariants).

Each function gives a line for each thing that is not as it should be.
"""

from collections.abc import Iterator
from typing import Any, Final

from contract import principal
from icto.audit.v1 import audit_pb2
from icto.audit.v1.audit_pb2_grpc import AuditServiceStub
from services.kit.money import memos
from services.ledger import domain as ledger
from services.ledger import store as ledger_store
from tests.chaos.scenario import Connection
from tests.support.installation import E8S, Installation

TREASURY: Final = principal.of_service("invoice_storage")
_FLOAT: Final = 100 * E8S
_SHOWN: Final = 5

_ENDED_ONCE: Final = """
SELECT d.id, p.state, d.token, t.state AS token_state, t.id AS token_id, pay.id AS payment,
    pay.state AS payment_state, pay.amount, pay.delivered_amount, pay.refunded_amount,
    r.state AS refund_state, r.amount AS refund_amount, d.cost,
    EXISTS (SELECT FROM ledger.ledgers AS l WHERE l.id = t.id) AS ledger_exists,
    EXISTS (SELECT FROM ledger.closed_ledgers AS c WHERE c.id = t.id) AS ledger_closed
FROM backend.deployments AS d
JOIN backend.kit_pipelines AS p ON p.id = d.id
LEFT JOIN token_deployer.tokens AS t ON t.operation = 'deployments/' || d.id
LEFT JOIN invoice_storage.payments AS pay ON pay.operation = 'deployments/' || d.id
LEFT JOIN invoice_storage.refunds AS r ON r.payment_id = pay.id AND r.state NOT IN (6, 7)
"""
_DONE, _FAILED, _CANCELLED = 2, 3, 4
_ACTIVE, _ABANDONED = 5, 9
_NOT_CHARGED, _SETTLED, _REFUNDED = 3, 4, 5
_REFUND_COMPLETED: Final = 4


async def of_deployments(connection: Connection) -> list[str]:
    """Each ended exactly once: delivered, or refunded, or never charged (invariants 2 and 8)."""
    rows = await connection.fetch(_ENDED_ONCE)
    found = (f"deployments/{row['id']}: {p}" for row in rows for p in _of_deployment(row))
    return first("deployments", list(found))


def _of_deployment(row: Any) -> Iterator[str]:
    if row["state"] not in (_DONE, _FAILED, _CANCELLED):
        yield f"its pipeline is in state {row['state']}"
    elif row["token"]:
        yield from _of_delivered(row)
    else:
        yield from _of_undelivered(row)


def _of_delivered(row: Any) -> Iterator[str]:
    if row["token_state"] != _ACTIVE or f"tokens/{row['token_id']}" != row["token"]:
        yield f"it shows {row['token']}, which is in state {row['token_state']}"
    if not row["ledger_exists"] or row["ledger_closed"]:
        yield "its ledger does not exist, or is closed"
    if row["payment_state"] != _SETTLED or row["delivered_amount"] != int(row["cost"]):
        yield f"delivered, but its payment is in state {row['payment_state']}"
    if row["refund_state"] is not None:
        yield "delivered and refunded"


def _of_undelivered(row: Any) -> Iterator[str]:
    if row["token_state"] == _ACTIVE:
        yield "it failed, and its token is active"
    if row["ledger_exists"] and not row["ledger_closed"]:
        yield "it failed, and its ledger is open"
    if row["payment_state"] in (None, _NOT_CHARGED):
        return
    if row["token_state"] not in (None, _ABANDONED):
        yield f"its money went back without a tombstone: token state {row['token_state']}"
    if row["payment_state"] != _REFUNDED or row["refund_state"] != _REFUND_COMPLETED:
        yield f"charged and not refunded: {row['payment_state']}, refund {row['refund_state']}"
    if row["refund_amount"] != row["amount"]:
        yield f"{row['amount']} was charged, {row['refund_amount']} went back"


async def of_money(connection: Connection) -> list[str]:
    """Charged = delivered + refunded, and the ledger has each transfer once (invariant 1)."""
    found: list[str] = []
    payments = await connection.fetch("SELECT * FROM invoice_storage.payments")
    refunds = await connection.fetch("SELECT * FROM invoice_storage.refunds")
    blocks = await _blocks_by_memo(connection)
    charged = [p for p in payments if p["state"] != _NOT_CHARGED]
    for payment in payments:
        made = blocks.get(memos.of("charge", payment["operation"]), [])
        wanted = [payment["amount"]] if payment in charged else []
        if [block["amount"] for block in made] != wanted:
            found.append(f"payments/{payment['id']}: {len(made)} charges on the ledger")
    for refund in refunds:
        made = blocks.get(memos.of("refund", str(refund["id"])), [])
        wanted = [refund["amount"]] if refund["state"] == _REFUND_COMPLETED else []
        if [block["amount"] for block in made] != wanted:
            found.append(f"refunds/{refund['id']}: {len(made)} transfers on the ledger")
    taken = sum(p["amount"] for p in charged)
    kept = sum(p["delivered_amount"] or 0 for p in charged)
    paid_back = [r["amount"] for r in refunds if r["state"] == _REFUND_COMPLETED]
    owed = sum(r["amount"] for r in refunds if r["state"] in (1, 2, 3, 5))
    if taken != kept + sum(paid_back) + owed:
        found.append(f"charged {taken}, delivered {kept}, refunded {sum(paid_back)}, owed {owed}")
    holds = await connection.fetchval(_BALANCE, ledger.ICP_LEDGER, TREASURY)
    fees = len(paid_back) * ledger.ICP_TRANSFER_FEE
    if holds != _FLOAT + taken - sum(paid_back) - fees:
        found.append(f"the treasury holds {holds}: not what its float and payments add up to")
    return first("payments", found)


_BALANCE: Final = """
SELECT sum(balance) FROM ledger.balances WHERE ledger_id = $1 AND owner = $2
"""


async def _blocks_by_memo(connection: Connection) -> dict[bytes, list[Any]]:
    rows = await connection.fetch(
        "SELECT memo, amount FROM ledger.blocks WHERE ledger_id = $1 AND memo <> ''",
        ledger.ICP_LEDGER,
    )
    found: dict[bytes, list[Any]] = {}
    for row in rows:
        found.setdefault(row["memo"], []).append(row)
    return found


async def of_ledgers(connection: Connection) -> list[str]:
    """Balances add up to the supply, none is negative, and every chain verifies (invariant 4)."""
    found: list[str] = []
    await connection.execute("SET search_path = ledger")
    sums = await connection.fetch(
        "SELECT id, total_supply, block_count, tip_hash, sum(balance) AS held,"
        " min(balance) AS least FROM ledgers LEFT JOIN balances ON ledger_id = id GROUP BY id"
    )
    for row in sums:
        if row["total_supply"] != (row["held"] or 0) or (row["least"] or 0) < 0:
            found.append(f"{row['id']}: supply {row['total_supply']}, balances {row['held']}")
        hashes = await connection.fetch(
            "SELECT hash FROM blocks WHERE ledger_id = $1 ORDER BY index", row["id"]
        )
        reader: Any = connection
        blocks = await ledger_store.list_blocks(reader, row["id"], 0, len(hashes) + 1)
        stored = [block["hash"] for block in hashes]
        broken = ledger.verify_chain(blocks, stored)
        if broken is not None or len(stored) != row["block_count"]:
            found.append(f"{row['id']}: its chain breaks at block {broken}")
        if stored and stored[-1] != row["tip_hash"]:
            found.append(f"{row['id']}: its head is not its last block")
    return first("ledgers", found)


# Every operation that the databases know, and every one that the audit alone knows.
_AUDIT_COUNTS: Final = """
WITH known AS (
    SELECT 'deployments/' || id AS name, 'CreateToken' AS action FROM backend.deployments
    UNION ALL SELECT 'launches/' || id, 'StartPipeline' FROM backend.launches
    UNION ALL SELECT 'refunds/' || id, 'RefundPayment' FROM invoice_storage.refunds
        WHERE state IN (3, 4, 5)
    UNION ALL SELECT 'locks/' || lock_id || '/claims/' || id, 'ClaimLock'
        FROM lock_deployer.lock_claims
    UNION ALL SELECT 'distributions/' || distribution_id || '/claims/' || id, 'ClaimDistribution'
        FROM distribution_deployer.disbursements WHERE kind = 1
    UNION SELECT operation, action FROM audit_storage.entries WHERE status = 1)
SELECT name, known.action, count(*) FILTER (WHERE e.status = 1) AS initiated,
    count(*) FILTER (WHERE e.status IN (2, 3, 4)) AS terminal,
    min(e.sequence) FILTER (WHERE e.status = 1) < min(e.sequence) FILTER (WHERE e.status <> 1)
        AS in_order
FROM known LEFT JOIN audit_storage.entries AS e ON e.operation = name AND e.action = known.action
GROUP BY name, known.action HAVING count(*) FILTER (WHERE e.status = 1) <> 1
    OR count(*) FILTER (WHERE e.status IN (2, 3, 4)) <> 1
    OR min(e.sequence) FILTER (WHERE e.status = 1) > min(e.sequence) FILTER (WHERE e.status <> 1)
"""


async def of_audit(connection: Connection, installation: Installation) -> list[str]:
    """One Initiated and then one end for each, nothing lost, and the chain verifies (5)."""
    rows = await connection.fetch(_AUDIT_COUNTS)
    found = [
        f"{r['name']}: {r['action']} begun {r['initiated']} times, ended {r['terminal']}, "
        f"in order: {r['in_order']}"
        for r in rows
    ]
    dead = await connection.fetchval("SELECT count(*) FROM audit_storage.dead_letters")
    if dead:
        found.append(f"there are {dead} dead letters")
    async with installation.operator() as operator:
        answer = await operator.stub(AuditServiceStub).VerifyChain(
            audit_pb2.VerifyChainRequest(), timeout=60
        )
    if not answer.intact:
        found.append(f"the audit chain is not intact: {answer.fault.description}")
    return first("audit", found)


async def outboxes(connection: Connection) -> list[str]:
    """The schemas that have an outbox."""
    rows = await connection.fetch(
        "SELECT table_schema FROM information_schema.tables WHERE table_name = 'kit_outbox'"
    )
    return [row["table_schema"] for row in rows]


async def unsent_events(connection: Connection) -> int:
    """Events that still wait to be handed on."""
    counts = [
        await connection.fetchval(f'SELECT count(*) FROM "{schema}".kit_outbox')
        for schema in await outboxes(connection)
    ]
    return sum(counts)


def first(what: str, found: list[str]) -> list[str]:
    """The first few problems, and how many more there are."""
    more = len(found) - _SHOWN
    return [*found[:_SHOWN], *([f"{more} more problems of {what}"] if more > 0 else [])]
