"""One effect for each request id: the answer is kept and given again.

The record is claimed before the work and committed with it, in one transaction. A repeat that
comes while the first is at work waits on the claim's unique key until that commits or rolls back.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from services.kit.database import Connection
from services.kit.errors import Code, Error

RETENTION: Final = "24 hours"

_CLAIM: Final = """
INSERT INTO kit_answers (principal, method, request_id, body_hash)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[])
ON CONFLICT DO NOTHING
RETURNING principal, method, request_id, body_hash
"""
_FIND: Final = """
SELECT body_hash, answer FROM kit_answers
WHERE principal = $1 AND method = $2 AND request_id = $3
"""
_KEEP: Final = """
UPDATE kit_answers SET answer = new.answer
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[])
    AS new (principal, method, request_id, answer)
WHERE kit_answers.principal = new.principal AND kit_answers.method = new.method
  AND kit_answers.request_id = new.request_id
"""
_RELEASE: Final = """
DELETE FROM kit_answers
USING unnest($1::text[], $2::text[], $3::text[]) AS old (principal, method, request_id)
WHERE kit_answers.principal = old.principal AND kit_answers.method = old.method
  AND kit_answers.request_id = old.request_id
"""
_FORGET: Final = f"""
DELETE FROM kit_answers WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM kit_answers
    WHERE create_time < kit_now() - interval '{RETENTION}' LIMIT 1000))
"""  # noqa: S608  # a constant


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What one effect is known by: who asked, for what, under which id; and with what body."""

    principal: str
    method: str
    request_id: str
    body_hash: bytes


class Replayed(Exception):  # noqa: N818  # not an error: the work was done before
    """The request was answered before; this is the answer."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("answered before")
        self.answer = answer


def body_hash(request: Message) -> bytes:
    """Hash that two requests share only if they ask for the same."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


async def claim(connection: Connection, key: Key) -> None:
    """Claims a key for the transaction.

    Raises:
        Replayed: it was answered before.
        Error: ALREADY_EXISTS, the id was used for another body.
    """
    if not await claim_many(connection, [key]):
        raise Replayed(await find_answer(connection, key))


async def claim_many(connection: Connection, keys: Sequence[Key]) -> set[Key]:
    """Claims keys and returns those that are new. Sorted, so that two batches cannot deadlock."""
    ordered = sorted(keys)
    rows = await connection.fetch(
        _CLAIM,
        [key.principal for key in ordered],
        [key.method for key in ordered],
        [key.request_id for key in ordered],
        [key.body_hash for key in ordered],
    )
    return {Key(*row) for row in rows}


async def find_answer(connection: Connection, key: Key) -> bytes:
    """The answer that is kept under a key.

    Raises:
        Error: ALREADY_EXISTS, the id was used for another body; ABORTED, it is still at work.
    """
    row = await connection.fetchrow(_FIND, key.principal, key.method, key.request_id)
    if row is not None and row["body_hash"] != key.body_hash:
        raise Error(
            Code.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
            "This request id was used for a different request. Use a fresh one.",
            metadata={"request_id": key.request_id},
        )
    if row is None or row["answer"] is None:
        raise still_at_work()
    answer: bytes = row["answer"]
    return answer


def still_at_work() -> Error:
    """A repeat that could not wait any longer."""
    return Error(
        Code.ABORTED,
        "REQUEST_IN_PROGRESS",
        "A request with this id is still at work; repeat it to get its answer.",
        retry_after=1.0,
    )


async def keep(connection: Connection, answers: Sequence[tuple[Key, bytes]]) -> None:
    """Keeps the answers of claimed keys."""
    if not answers:
        return
    await connection.execute(
        _KEEP,
        [key.principal for key, _ in answers],
        [key.method for key, _ in answers],
        [key.request_id for key, _ in answers],
        [answer for _, answer in answers],
    )


async def release(connection: Connection, keys: Sequence[Key]) -> None:
    """Gives claimed keys back: their requests changed nothing and may be tried again."""
    if keys:
        await connection.execute(
            _RELEASE,
            [key.principal for key in keys],
            [key.method for key in keys],
            [key.request_id for key in keys],
        )


async def forget_old(connection: Connection) -> int:
    """Drops up to 1,000 answers that are older than the retention; returns how many."""
    tag = await connection.execute(_FORGET)
    return int(tag.rpartition(" ")[2])
