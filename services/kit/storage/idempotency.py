"""One effect for each request id: the answer is kept and given again.

The record is claimed before the work and committed with it, in one transaction. A repeat that
comes while the first is at work waits on the claim's unique key until that commits or rolls back.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from contract.errors import Code, Error, invalid
from contract.service import ANSWER_RETENTION
from services.kit.storage.database import Connection, Database
from services.kit.storage.statement import Statement

RETENTION: Final = ANSWER_RETENTION.period
CONSTRAINT: Final = "kit_answers_pkey"
# As draft-ietf-httpapi-idempotency-key-header sends it, a string of RFC 8941; or bare.
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_BARE: Final = re.compile(r'[^",]*')

_CLAIM: Final = """
INSERT INTO kit_answers (principal, method, request_id, body_hash) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING true
"""
_FIND: Final = """
SELECT principal, method, request_id, body_hash, answer FROM kit_answers
JOIN unnest($1::text[], $2::text[], $3::text[]) AS wanted (principal, method, request_id)
    USING (principal, method, request_id)
"""
_KEEP: Final = """
UPDATE kit_answers SET answer = $4 WHERE principal = $1 AND method = $2 AND request_id = $3
"""
_RECORD: Final = """
INSERT INTO kit_answers (principal, method, request_id, body_hash, answer)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])
"""
_FORGET: Final = """
DELETE FROM kit_answers WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM kit_answers WHERE create_time < kit_now() - $1::interval LIMIT 1000))
"""


@dataclass(frozen=True, slots=True)
class Key:
    """What one effect is known by: who asked, for what, under which id; and with what body."""

    principal: str
    method: str
    request_id: str
    body_hash: bytes

    @property
    def scope(self) -> tuple[str, str, str]:
        """What the record is unique by."""
        return self.principal, self.method, self.request_id


def key_of(values: Sequence[str]) -> str:
    """The key that `Idempotency-Key` gives, in quotes or bare; "" for no such header.

    Raises:
        Error: INVALID_ARGUMENT, there are two keys, or quotes that do not match.
    """
    if not values:
        return ""
    value = values[0].strip()
    if len(values) == 1 and (quoted := _QUOTED.fullmatch(value)):
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if len(values) == 1 and _BARE.fullmatch(value):
        return value
    raise invalid(
        "Idempotency-Key", "must be one key, bare or in quotes", "IDEMPOTENCY_KEY_INVALID"
    )


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
    if not await connection.fetchval(_CLAIM, *key.scope, key.body_hash):
        answer = await find_answer(connection, key)
        if answer is None:
            raise still_at_work()
        raise Replayed(answer)


async def find_answer(connection: Connection, key: Key) -> bytes | None:
    """The answer that is kept under a key, or None.

    Raises:
        Error: ALREADY_EXISTS, the id was used for another body.
    """
    told = (await find_answers(connection, [key])).get(key)
    if isinstance(told, Replayed):
        return told.answer
    if told is not None:
        raise told
    return None


async def find_answers(source: Connection | Database, keys: Sequence[Key]) -> dict[Key, Exception]:
    """What repeats are told, for those of the keys that were used before."""
    rows = await source.fetch(
        _FIND,
        [key.principal for key in keys],
        [key.method for key in keys],
        [key.request_id for key in keys],
    )
    kept = {(row["principal"], row["method"], row["request_id"]): row for row in rows}
    return {key: _told(key, row) for key in keys if (row := kept.get(key.scope)) is not None}


def _told(key: Key, row: Any) -> Exception:
    if row["body_hash"] != key.body_hash:
        return Error(
            Code.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
            "This request id was used for a different request. Use a fresh one.",
            metadata={"request_id": key.request_id},
        )
    return still_at_work() if row["answer"] is None else Replayed(row["answer"])


def still_at_work() -> Error:
    """A repeat that could not wait any longer."""
    return Error(
        Code.ABORTED,
        "REQUEST_IN_PROGRESS",
        "A request with this id is still at work; repeat it to get its answer.",
        retry_after=1.0,
    )


def kept(key: Key, answer: bytes) -> Statement:
    """Keeps the answer of a key that was claimed before."""
    return Statement(_KEEP, (*key.scope, answer))


def recorded(answers: Sequence[tuple[Key, bytes]]) -> Statement:
    """Claims keys and keeps their answers at once. A key that is taken violates `CONSTRAINT`."""
    columns = (
        [key.principal for key, _ in answers],
        [key.method for key, _ in answers],
        [key.request_id for key, _ in answers],
        [key.body_hash for key, _ in answers],
        [answer for _, answer in answers],
    )
    return Statement(_RECORD, columns)


async def forget_old(connection: Connection) -> int:
    """Drops up to 1,000 answers that are older than the retention; returns how many."""
    tag = await connection.execute(_FORGET, RETENTION)
    return int(tag.rpartition(" ")[2])
