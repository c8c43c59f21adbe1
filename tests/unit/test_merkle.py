"""Merkle trees of recipients: what a proof proves, and all that it does not (F-43)."""

import hashlib
import subprocess
import sys
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.distribution_deployer import merkle_rules
from services.distribution_deployer.merkle_rules import Builder, Tree

LIST = UUID("019a0000-0000-7000-8000-000000000001")
OTHER = UUID("019a0000-0000-7000-8000-000000000002")
COUNTS = [1, 2, 3, 4, 5, 7, 8, 1023, 1024, 1025, 2047, 2048, 3001]
counts = st.integers(1, 200)
# What serving a million leaves may take beyond the interpreter: 64 bytes a leaf, and a tenth.
MEGABYTES = 64 * 1.1


def leaves(count: int) -> list[bytes]:
    return [
        merkle_rules.leaf(LIST, 1, f"recipient-{number}", number + 1) for number in range(count)
    ]


def naive_root(level: list[bytes]) -> bytes:
    """The root by the words of the definition."""
    while len(level) > 1:
        pairs = [sorted(level[at : at + 2]) for at in range(0, len(level), 2)]
        level = [
            hashlib.sha256(b"\x01" + b"".join(pair)).digest() if len(pair) == 2 else pair[0]
            for pair in pairs
        ]
    return level[0]


def test_a_leaf_is_the_hash_that_its_definition_says() -> None:
    told = b"\x00icto-dist-v1" + LIST.bytes + b"\x03bob" + (7).to_bytes(16) + (2).to_bytes(4)
    assert merkle_rules.leaf(LIST, 2, "bob", 7) == hashlib.sha256(told).digest()


@pytest.mark.parametrize("count", COUNTS)
def test_every_size_has_the_root_of_the_definition_and_every_proof_verifies(count: int) -> None:
    made = leaves(count)
    tree = Tree(made)
    assert tree.root == naive_root(made)
    assert all(merkle_rules.verify(tree.root, one, tree.proof(at)) for at, one in enumerate(made))


@given(counts, st.data())
def test_a_proof_proves_no_other_leaf(count: int, data: st.DataObject) -> None:
    made = leaves(count)
    tree = Tree(made)
    mine = data.draw(st.integers(0, count - 1))
    other = data.draw(st.integers(0, count - 1))
    proof = tree.proof(mine)
    assert merkle_rules.verify(tree.root, made[other], proof) == (mine == other)


@given(counts, st.data())
def test_a_proof_proves_no_other_amount_recipient_category_or_list(
    count: int, data: st.DataObject
) -> None:
    tree = Tree(leaves(count))
    at = data.draw(st.integers(0, count - 1))
    amount = data.draw(st.integers(0, 2**128 - 1).filter(lambda value: value != at + 1))
    forged = [
        merkle_rules.leaf(LIST, 1, f"recipient-{at}", amount),
        merkle_rules.leaf(LIST, 1, "recipient--1", at + 1),
        merkle_rules.leaf(LIST, 2, f"recipient-{at}", at + 1),
        merkle_rules.leaf(OTHER, 1, f"recipient-{at}", at + 1),
    ]
    assert not any(merkle_rules.verify(tree.root, one, tree.proof(at)) for one in forged)


@given(st.integers(2, 200), st.data())
def test_a_spoilt_short_or_long_proof_proves_nothing(count: int, data: st.DataObject) -> None:
    made = leaves(count)
    tree = Tree(made)
    at = data.draw(st.integers(0, count - 1))
    proof = tree.proof(at)
    place = data.draw(st.integers(0, len(proof) - 1))
    spoilt = bytes([proof[place][0] ^ 1]) + proof[place][1:]
    assert not merkle_rules.verify(
        tree.root, made[at], (*proof[:place], spoilt, *proof[place + 1 :])
    )
    assert not merkle_rules.verify(tree.root, made[at], proof[:-1])
    assert not merkle_rules.verify(tree.root, made[at], (*proof, proof[-1]))
    assert not merkle_rules.verify(tree.root, made[at], (*proof[:place], b"", *proof[place + 1 :]))


@given(st.integers(3, 200))
def test_a_node_passes_for_no_leaf(count: int) -> None:
    """Second preimage: what is hashed for a node begins otherwise than what is for a leaf."""
    made = leaves(count)
    tree = Tree(made)
    below = b"".join(sorted(made[:2]))
    node = hashlib.sha256(b"\x01" + below).digest()
    # The node itself is in the tree, one level up: only its preimage must never be a leaf's.
    assert merkle_rules.verify(tree.root, node, tree.proof(0)[1:])
    body = b"icto-dist-v1" + LIST.bytes + b"\x01a" + bytes(15) + b"\x07" + bytes(3) + b"\x05"
    assert merkle_rules.leaf(LIST, 5, "a", 7) == hashlib.sha256(b"\x00" + body).digest()


@given(st.lists(st.integers(0, 700), max_size=8))
def test_the_cadence_of_leaves_does_not_change_the_tree(batches: list[int]) -> None:
    made = leaves(sum(batches) + 1)
    builder, chunks, at = Builder(), [], 0
    for size in [*batches, 1]:
        chunks += builder.add(b"".join(made[at : at + size]))
        at += size
    root, rest = builder.finish()
    assert root == Tree(made).root
    packed = b"".join(
        c.hashes for c in sorted([*chunks, *rest], key=lambda c: c.index) if not c.level
    )
    assert packed == b"".join(made)


def test_there_is_no_tree_without_leaves() -> None:
    with pytest.raises(ValueError, match="without leaves"):
        Tree([])


def test_a_million_leaves_are_within_their_memory_and_the_longest_proof() -> None:
    """Measured in a process of its own; what builds them chunk by chunk needs almost nothing."""
    program = """
import hashlib, resource
from services.distribution_deployer.merkle_rules import MAX_LEAVES, MAX_PROOF, Builder, Tree, verify
def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def leaf(number):
    return hashlib.sha256(number.to_bytes(4, "big")).digest()
before = used()
builder = Builder()
for start in range(0, MAX_LEAVES, 1000):
    builder.add(b"".join(map(leaf, range(start, start + 1000))))
root, _ = builder.finish()
streamed = used()
tree = Tree(map(leaf, range(MAX_LEAVES)))
assert tree.root == root and len(tree) == MAX_LEAVES
places = range(0, MAX_LEAVES, 997)
assert all(verify(root, leaf(at), tree.proof(at)) for at in places)
assert max(len(tree.proof(at)) for at in places) == MAX_PROOF
print(streamed - before, used() - before)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    streamed, whole = map(float, ran.stdout.split())
    assert streamed < 8
    assert whole < MEGABYTES
