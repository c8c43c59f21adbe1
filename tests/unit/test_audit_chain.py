"""The audit's chain: whatever is done to it is named, at the right place."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from services.audit_storage import checkpoints, domain
from services.audit_storage.checkpoints import CheckpointFile, Signer
from services.audit_storage.domain import (
    Checkpoint,
    Entry,
    Facts,
    Fault,
    FaultKind,
    Head,
    Known,
    Restoration,
    Verifier,
)
from services.audit_storage.restore_note import RestoreNote

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
STRANGER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x01"))
FACTS = Facts(
    event_time=MOMENT,
    source="/icto/ledger",
    subject="ledgers/x",
    principal="p",
    action="TransferToken",
    operation="",
    status=2,
    severity=1,
    trace_id="",
)
COUNT = 6


def made(
    events: Iterable[bytes], head: Head | None = None, moment: datetime = MOMENT
) -> list[Entry]:
    """A chain of events, in two batches as appends make it."""
    parts = [(UUID(int=number), event, FACTS) for number, event in enumerate(events)]
    middle, first = domain.chain(head or Head(), parts[:2], moment)
    _, rest = domain.chain(middle, parts[2:], moment)
    return [*first, *rest]


def entries() -> list[Entry]:
    return made(b"event %d" % number for number in range(COUNT))


def rehashed(chain: Sequence[Entry]) -> list[Entry]:
    """The chain as somebody rewrites it who knows how hashes are made."""
    head = Head()
    fresh: list[Entry] = []
    for entry in chain:
        digest = domain.entry_hash(
            head.sequence + 1, head.entry_hash, entry.record_time, entry.event
        )
        head = Head(head.sequence + 1, digest)
        fresh.append(
            replace(
                entry,
                sequence=head.sequence,
                previous_hash=fresh[-1].entry_hash if fresh else b"",
                entry_hash=digest,
            )
        )
    return fresh


def signed(chain: Sequence[Entry], *sequences: int, signer: Signer = SIGNER) -> list[Checkpoint]:
    heads = (Head(number, chain[number - 1].entry_hash) for number in sequences)
    return [signer.sign(head, MOMENT) for head in heads]


def verified(chain: Sequence[Entry], signatures: Iterable[Checkpoint] = ()) -> Fault | None:
    """What the verification of the whole chain finds."""
    trusted = {checkpoint.head.sequence: checkpoint for checkpoint in signatures}
    verifier = Verifier(Head(), trusted)
    fault = verifier.walk((entry, FACTS) for entry in chain)
    newest = trusted[max(trusted)] if trusted else None
    return fault or domain.truncation(verifier.head, newest)


def place(fault: Fault | None) -> tuple[int, FaultKind] | None:
    return (fault.sequence, fault.kind) if fault else None


def test_a_chain_verifies_and_says_how_much_of_it() -> None:
    chain = entries()
    verifier = Verifier(Head(), {c.head.sequence: c for c in signed(chain, 2, 5)})
    assert verifier.walk((entry, FACTS) for entry in chain) is None
    assert (verifier.verified, verifier.compared) == (COUNT, 2)
    assert verifier.head == Head(COUNT, chain[-1].entry_hash)


def test_a_stretch_of_a_chain_verifies_from_the_head_before_it() -> None:
    chain = entries()
    verifier = Verifier(Head(3, chain[2].entry_hash), {})
    assert verifier.walk((entry, FACTS) for entry in chain[3:]) is None
    assert verifier.verified == 3


@pytest.mark.parametrize("position", range(COUNT))
@pytest.mark.parametrize(
    "change",
    [{"event": b"forged"}, {"record_time": MOMENT + timedelta(microseconds=1)}],
    ids=["event", "time"],
)
def test_an_altered_entry_is_named(position: int, change: dict[str, Any]) -> None:
    chain = entries()
    chain[position] = replace(chain[position], **change)
    assert place(verified(chain)) == (position + 1, FaultKind.ALTERED)


SEARCHED: dict[str, Any] = {
    "event_time": MOMENT + timedelta(seconds=1),
    "source": "/icto/other",
    "subject": "ledgers/y",
    "principal": "q",
    "action": "Other",
    "operation": "deployments/x",
    "status": 3,
    "severity": 4,
    "trace_id": "0" * 32,
}


@pytest.mark.parametrize("column", SEARCHED)
def test_an_altered_searchable_column_is_named(column: str) -> None:
    """The copies to search by are outside of the hash: they are compared with the event."""
    chain = entries()
    forged = replace(FACTS, **{column: SEARCHED[column]})
    chain[2] = replace(chain[2], facts=forged)
    assert place(verified(chain)) == (3, FaultKind.ALTERED)


def test_every_searchable_column_is_covered() -> None:
    assert set(SEARCHED) == set(Facts.__dataclass_fields__)


@pytest.mark.parametrize("position", range(COUNT - 1))
def test_a_missing_entry_is_a_gap_at_its_number(position: int) -> None:
    chain = entries()
    del chain[position]
    assert place(verified(chain)) == (position + 1, FaultKind.GAP)


def test_an_entry_that_is_there_twice_is_a_gap_after_it() -> None:
    chain = entries()
    assert place(verified([*chain[:3], chain[2], *chain[3:]])) == (4, FaultKind.GAP)


def test_an_altered_entry_with_a_fresh_hash_breaks_the_link_after_it() -> None:
    chain = entries()
    forged = replace(chain[2], event=b"forged")
    chain[2] = replace(forged, entry_hash=forged.expected_hash)
    assert place(verified(chain)) == (4, FaultKind.BROKEN_LINK)


def test_a_forged_previous_hash_is_named() -> None:
    chain = entries()
    forged = replace(chain[2], previous_hash=bytes(32))
    chain[2] = replace(forged, entry_hash=forged.expected_hash)
    assert place(verified(chain)) == (3, FaultKind.BROKEN_LINK)


@pytest.mark.parametrize("kept", range(COUNT))
def test_a_cut_tail_is_named_where_the_chain_ends(kept: int) -> None:
    chain = entries()
    assert place(verified(chain[:kept], signed(chain, 2, COUNT))) == (
        kept + 1,
        FaultKind.TRUNCATED,
    )


def test_a_tail_after_the_last_checkpoint_cannot_be_missed() -> None:
    chain = entries()
    assert verified(chain[:4], signed(chain, 2, 4)) is None
    assert domain.truncation(Head(), None) is None


@given(st.integers(0, COUNT - 1), st.sets(st.integers(1, COUNT), min_size=1))
def test_a_rewritten_chain_is_named_at_the_first_checkpoint_after_the_change(
    position: int, sequences: set[int]
) -> None:
    chain = entries()
    signatures = signed(chain, *sequences)
    forged = list(chain)
    forged[position] = replace(chain[position], event=b"forged")
    later = [sequence for sequence in sequences if sequence > position]
    expected = (min(later), FaultKind.REWRITTEN) if later else None
    assert place(verified(rehashed(forged), signatures)) == expected


def test_a_chain_that_grew_again_after_a_cut_is_rewritten() -> None:
    chain = entries()
    regrown = [*chain[:3], *made([b"new 1", b"new 2", b"new 3"], Head(3, chain[2].entry_hash))]
    assert place(verified(regrown, signed(chain, 3, COUNT))) == (COUNT, FaultKind.REWRITTEN)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=6), st.integers(0, 5))
def test_a_hash_covers_order_and_bounds_of_what_it_hashes(events: list[bytes], place: int) -> None:
    chain = made(events)
    joined = list(events)
    position = min(place, len(events) - 1)
    joined[position] += b"x"
    assert chain[-1].entry_hash != made(joined)[-1].entry_hash


def test_a_checkpoint_verifies_with_its_own_key_alone() -> None:
    (checkpoint,) = signed(entries(), 3)
    assert SIGNER.verifies(checkpoint)
    assert not STRANGER.verifies(checkpoint)
    assert not SIGNER.verifies(replace(checkpoint, public_key=STRANGER.public_key))
    assert not SIGNER.verifies(replace(checkpoint, signature=bytes(64)))
    assert not SIGNER.verifies(replace(checkpoint, head=Head(4, checkpoint.head.entry_hash)))
    assert not SIGNER.verifies(replace(checkpoint, sign_time=MOMENT + timedelta(seconds=1)))


def reconciled(
    inside: Sequence[Checkpoint], outside: Sequence[Checkpoint]
) -> tuple[list[int], tuple[int, FaultKind] | None]:
    trusted, fault = checkpoints.reconcile(SIGNER, inside, outside)
    return sorted(trusted), place(fault)


def test_two_copies_that_agree_are_trusted() -> None:
    both = signed(entries(), 2, 4)
    assert reconciled(both, both) == ([2, 4], None)
    assert reconciled([], []) == ([], None)


def test_a_checkpoint_that_the_database_lost_is_named_and_still_trusted() -> None:
    two, four, six = signed(entries(), 2, 4, 6)
    assert reconciled([two], [two, four, six]) == ([2, 4, 6], (4, FaultKind.BAD_CHECKPOINT))
    assert reconciled([], [two]) == ([2], (2, FaultKind.BAD_CHECKPOINT))


def test_a_checkpoint_that_the_file_missed_is_no_fault() -> None:
    two, four = signed(entries(), 2, 4)
    assert reconciled([two, four], [two]) == ([2, 4], None)


def test_copies_that_differ_are_named() -> None:
    chain = entries()
    forged = rehashed([replace(chain[0], event=b"forged"), *chain[1:]])
    one, other = signed(chain, 3)[0], signed(forged, 3)[0]
    assert reconciled([other], [one]) == ([3], (3, FaultKind.BAD_CHECKPOINT))


def test_a_checkpoint_that_we_did_not_sign_is_named_and_not_trusted() -> None:
    chain = entries()
    own, forged = signed(chain, 2)[0], signed(chain, 4, signer=STRANGER)[0]
    assert reconciled([own, forged], [own]) == ([2], (4, FaultKind.BAD_CHECKPOINT))
    assert reconciled([own], [own, forged]) == ([2], (4, FaultKind.BAD_CHECKPOINT))


async def whole(file: CheckpointFile) -> list[Checkpoint]:
    return await file.stretch(1, COUNT)


async def test_checkpoints_in_a_file_are_read_back_as_they_were(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "folder" / "checkpoints.jsonl", SIGNER)
    assert await whole(file) == []
    assert await file.newest(SIGNER.verifies) is None
    kept = signed(entries(), 2, 4)
    for checkpoint in kept:
        await file.add(checkpoint)
    assert await whole(file) == kept


async def test_a_line_that_a_crash_tore_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    file = CheckpointFile(path, SIGNER)
    kept = signed(entries(), 2, 4)
    for checkpoint in kept:
        await file.add(checkpoint)
    path.write_text(path.read_text()[:-10])
    assert await whole(file) == kept[:1]


async def test_a_checkpoint_after_a_torn_line_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    file = CheckpointFile(path, SIGNER)
    two, four, six = signed(entries(), 2, 4, 6)
    await file.add(two)
    await file.add(four)
    path.write_text(path.read_text()[:-10])
    await file.add(six)
    assert await whole(file) == [two, six]


async def test_a_file_is_asked_for_a_stretch_and_its_newest_checkpoint(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoints.jsonl", SIGNER)
    one, two, four, six = signed(entries(), 1, 2, 4, 6)
    for checkpoint in (one, four, two, six):  # one came late
        await file.add(checkpoint)
    assert await file.stretch(2, 4) == [two, four, six]
    assert await file.stretch(5, 6) == [six]
    assert await file.stretch(3, 3) == [six]
    assert await file.newest(SIGNER.verifies) == six
    assert await file.newest(lambda checkpoint: checkpoint.head.sequence < 4) == two


async def test_what_is_added_to_a_file_is_seen_by_whoever_read_it_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    reader, writer = CheckpointFile(path, SIGNER), CheckpointFile(path, SIGNER)
    kept = signed(entries(), 2, 4, 6)
    for count, checkpoint in enumerate(kept, 1):
        await writer.add(checkpoint)
        assert await whole(reader) == kept[:count]


class CountingSigner(Signer):
    """Counts the signatures that are really verified."""

    def __init__(self) -> None:
        super().__init__(Ed25519PrivateKey.from_private_bytes(bytes(32)))
        self.count = 0

    def _verify(self, checkpoint: Checkpoint) -> bool:
        self.count += 1
        return super()._verify(checkpoint)


def test_a_signature_is_verified_once_for_both_copies_and_for_all_who_ask() -> None:
    signer, both = CountingSigner(), signed(entries(), 2, 4)
    for _ in range(3):
        assert checkpoints.reconcile(signer, both, list(both))[1] is None
    assert signer.count == 2


async def test_only_as_many_signatures_as_needed_are_verified_for_the_newest(
    tmp_path: Path,
) -> None:
    path = tmp_path / "checkpoints.jsonl"
    heads = [Head(number, b"%d" % number) for number in range(1, 500)]
    path.write_text("".join(checkpoints._line(SIGNER.sign(head, MOMENT)) + "\n" for head in heads))
    signer, file = CountingSigner(), CheckpointFile(path, SIGNER)
    newest = await file.newest(signer.verifies)
    assert newest is not None
    assert newest.head == heads[-1]
    assert signer.count == 1


def test_a_walk_that_ends_before_the_head_is_cut_off() -> None:
    chain = entries()
    verifier = Verifier(Head(), {})
    assert verifier.walk((entry, FACTS) for entry in chain[:4]) is None
    end = Head(COUNT, chain[-1].entry_hash)
    assert place(domain.missing_tail(verifier, COUNT, end)) == (5, FaultKind.TRUNCATED)
    assert domain.missing_tail(verifier, 4, end) is None, "no more was asked for"
    assert domain.missing_tail(verifier, COUNT, verifier.head) is None


def test_the_signing_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "key"
    first, second = Signer.from_file(path), Signer.from_file(path)
    assert first.public_key == second.public_key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["key"]


def test_the_file_holds_no_key(tmp_path: Path) -> None:
    key = Signer.from_file(tmp_path / "key")
    line = json.loads(checkpoints._line(key.sign(Head(1, b"x"), MOMENT)))
    assert (tmp_path / "key").read_text() not in line.values()


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "a" * 32), ("", ""), ("garbage", "")],
)
def test_a_trace_id_is_read_from_a_traceparent(traceparent: str, trace_id: str) -> None:
    assert domain.trace_id_of(traceparent) == trace_id


def test_an_entry_belongs_to_whoever_acted() -> None:
    assert entries()[0].owner == FACTS.principal


def restoration(chain: Sequence[Entry], last: int, known: int = 0) -> Restoration:
    """A restore of a backup that ends with an entry."""
    return Restoration(
        Head(last, chain[last - 1].entry_hash),
        MOMENT,
        MOMENT + timedelta(hours=1),
        Known(known, MOMENT) if known else None,
    )


async def test_after_a_restoration_what_it_lost_is_missed_no_more(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    file, chain = CheckpointFile(path, SIGNER), entries()
    for checkpoint in signed(chain, 2, 4, 6):
        await file.add(checkpoint)
    await file.mark(restoration(chain, 3, 6))
    await file.mark(restoration(chain, 3, 6))
    for reader in (file, CheckpointFile(path, SIGNER)):
        assert [c.head.sequence for c in await reader.stretch(1, 6)] == [2]
        assert await reader.restorations() == (restoration(chain, 3, 6),)
    for checkpoint in signed(chain, 5):
        await file.add(checkpoint)
    assert [c.head.sequence for c in await file.stretch(1, 6)] == [2, 5]


async def test_a_restoration_that_a_stranger_signed_hides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    chain = entries()
    for checkpoint in signed(chain, 2, 4):
        await CheckpointFile(path, SIGNER).add(checkpoint)
    await CheckpointFile(path, STRANGER).mark(restoration(chain, 3))
    file = CheckpointFile(path, SIGNER)
    assert [c.head.sequence for c in await file.stretch(1, 6)] == [2, 4]
    assert await file.restorations() == ()


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (6, "Entries 4 to 6, signed at 2026-01-02 03:04:05 UTC, were lost"),
        (3, "Whether there were later entries is not known"),
        (0, "Whether there were later entries is not known"),
    ],
)
def test_a_restoration_says_what_was_lost(known: int, says: str) -> None:
    assert says in restoration(entries(), 3, known).description


@pytest.mark.parametrize(("first", "last", "told"), [(1, 3, 1), (4, 6, 1), (5, 6, 0), (1, 2, 0)])
def test_a_restoration_is_told_of_beside_its_gap(first: int, last: int, told: int) -> None:
    assert len(domain.crossed([restoration(entries(), 3)], first, last)) == told


async def test_the_note_of_a_restore_is_marked_once(tmp_path: Path) -> None:
    chain = entries()
    for checkpoint in signed(chain, 2, 5):
        await CheckpointFile(tmp_path / "former" / "checkpoints.jsonl", SIGNER).add(checkpoint)
    note = {
        "audit_sequence": 3,
        "audit_hash": chain[2].entry_hash.hex(),
        "backup_time": MOMENT.isoformat(),
        "restore_time": (MOMENT + timedelta(hours=1)).isoformat(),
    }
    (tmp_path / "restored.json").write_text(json.dumps(note))
    files = [CheckpointFile(tmp_path / "checkpoints.jsonl", SIGNER) for _ in range(2)]
    await asyncio.gather(*(RestoreNote(tmp_path).mark(file, SIGNER) for file in files))
    assert await files[0].restorations() == (restoration(chain, 3, 5),)
    assert not (tmp_path / "restored.json").exists()
    assert not (tmp_path / "former").exists()
