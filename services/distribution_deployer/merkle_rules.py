"""Merkle trees over recipients: one root stands for up to a million of them, a proof for one.

    leaf = SHA-256(0x00 | "icto-dist-v1" | list (16) | length (1) | recipient | amount (16) | category (4))
    node = SHA-256(0x01 | smaller child | larger child)

Numbers are big-endian. A node without a sibling moves up as it is. Leaves and nodes begin with
different bytes, so that no node passes for a leaf; a leaf is bound to its list and its category, so
that it proves nothing elsewhere.

Trees are built level by level from leaves that arrive in order, in chunks of hashes. `Builder` holds
a chunk for each level and no more; `Tree` keeps every level packed, 64 bytes for each leaf.
"""  # noqa: E501  # the layout of a leaf is one line

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

HASH_BYTES: Final = 32
MAX_LEAVES: Final = 1_000_000
MAX_PROOF: Final = 20
"""Hashes in the longest proof: the levels above a million leaves."""
CHUNK_HASHES: Final = 1024
"""Hashes in a chunk: an even number, so that only the last node of a level is without a sibling."""

_CHUNK_BYTES: Final = CHUNK_HASHES * HASH_BYTES
_PAIR_BYTES: Final = 2 * HASH_BYTES
_LEAF: Final = b"\x00icto-dist-v1"
_NODE: Final = b"\x01"


def leaf(list_id: UUID, category: int, recipient: str, amount: int) -> bytes:
    """The leaf that says how much a recipient gets in a category of the list's distribution."""
    address = recipient.encode()
    return hashlib.sha256(
        b"".join(
            (
                _LEAF,
                list_id.bytes,
                len(address).to_bytes(1, "big"),
                address,
                amount.to_bytes(16, "big"),
                category.to_bytes(4, "big"),
            )
        )
    ).digest()


def verify(root: bytes, leaf_hash: bytes, proof: Sequence[bytes]) -> bool:
    """Whether a leaf belongs to the tree with this root."""
    if len(proof) > MAX_PROOF or any(len(sibling) != HASH_BYTES for sibling in proof):
        return False
    node = leaf_hash
    for sibling in proof:
        node = _parent(node, sibling)
    return node == root


def siblings(count: int, position: int) -> Iterator[tuple[int, int]]:
    """Where the hashes of a leaf's proof stand in a tree of `count` leaves: level and index."""
    level = 0
    while count > 1:
        sibling = position ^ 1
        if sibling < count:
            yield level, sibling
        position, count, level = position // 2, (count + 1) // 2, level + 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of a level's hashes: the leaves are level 0, and only a level's last chunk is short."""

    level: int
    index: int
    hashes: bytes


@dataclass(slots=True)
class _Level:
    """What of one level is not yet handed out."""

    waiting: bytearray = field(default_factory=bytearray)
    chunks: int = 0


class Builder:
    """Builds a tree from leaves in order, within `CHUNK_HASHES` hashes for each level."""

    def __init__(self) -> None:
        self._levels: list[_Level] = []

    def add(self, hashes: bytes) -> list[Chunk]:
        """Takes the next leaves, packed; returns the chunks that are complete now."""
        return list(self._grow(0, hashes))

    def finish(self) -> tuple[bytes, list[Chunk]]:
        """The root and the chunks that were still incomplete.

        Raises:
            ValueError: there was no leaf.
        """
        rest: list[Chunk] = []
        number = 0
        while number < len(self._levels):
            level = self._levels[number]
            hashes = bytes(level.waiting)
            if hashes:
                rest.append(Chunk(number, level.chunks, hashes))
            if not level.chunks and len(hashes) == HASH_BYTES:
                return hashes, rest
            rest.extend(self._grow(number + 1, _parents(hashes)))
            number += 1
        raise ValueError("a tree without leaves")

    def _grow(self, number: int, hashes: bytes) -> Iterator[Chunk]:
        if not hashes:
            return
        if number == len(self._levels):
            self._levels.append(_Level())
        level = self._levels[number]
        level.waiting += hashes
        while len(level.waiting) >= _CHUNK_BYTES:
            complete = bytes(level.waiting[:_CHUNK_BYTES])
            del level.waiting[:_CHUNK_BYTES]
            yield Chunk(number, level.chunks, complete)
            level.chunks += 1
            yield from self._grow(number + 1, _parents(complete))


class Tree:
    """A whole tree in memory, for whoever makes a list: its root and every proof."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        self._levels: list[bytearray] = []
        builder, waiting = Builder(), bytearray()
        for leaf_hash in leaves:
            waiting += leaf_hash
            if len(waiting) == _CHUNK_BYTES:
                self._keep(builder.add(bytes(waiting)))
                waiting.clear()
        self._keep(builder.add(bytes(waiting)))
        self.root, rest = builder.finish()
        self._keep(rest)

    def __len__(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def proof(self, position: int) -> tuple[bytes, ...]:
        """The proof of the leaf at a position."""
        return tuple(self._hash(*place) for place in siblings(len(self), position))

    def _keep(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            while chunk.level >= len(self._levels):
                self._levels.append(bytearray())
            self._levels[chunk.level] += chunk.hashes

    def _hash(self, level: int, index: int) -> bytes:
        start = index * HASH_BYTES
        return bytes(self._levels[level][start : start + HASH_BYTES])


def _parents(hashes: bytes) -> bytes:
    """The level above; a node without a sibling moves up as it is."""
    pairs = len(hashes) - len(hashes) % _PAIR_BYTES
    above = [
        _parent(hashes[at : at + HASH_BYTES], hashes[at + HASH_BYTES : at + _PAIR_BYTES])
        for at in range(0, pairs, _PAIR_BYTES)
    ]
    return b"".join((*above, hashes[pairs:]))


def _parent(one: bytes, other: bytes) -> bytes:
    smaller, larger = (one, other) if one < other else (other, one)
    return hashlib.sha256(_NODE + smaller + larger).digest()
