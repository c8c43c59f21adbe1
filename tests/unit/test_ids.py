"""Ids carry their bucket and their time, and order by it."""

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import ids
from contract.errors import Code, Error

milliseconds = st.integers(0, 2**47)
buckets = st.integers(0, ids.BUCKETS - 1)
entropy = st.binary(min_size=8, max_size=8)


@given(milliseconds, buckets, entropy)
def test_an_id_carries_bucket_and_time(moment: int, bucket: int, random: bytes) -> None:
    identifier = ids.make_id(moment, bucket, random)
    assert ids.bucket_of(identifier) == bucket
    assert identifier.int >> 80 == moment
    assert (identifier.version, identifier.variant) == (7, "specified in RFC 4122")


@given(milliseconds, milliseconds, buckets, buckets, entropy)
def test_ids_order_by_time_whatever_their_bucket(
    one: int, other: int, first: int, second: int, random: bytes
) -> None:
    early, late = ids.make_id(one, first, random), ids.make_id(other, second, random)
    if one != other:
        assert (early < late) == (one < other)


@given(entropy)
def test_every_random_bit_is_kept(random: bytes) -> None:
    """Twelve beside the version, fifty-two beside the bucket: enough that ids never meet."""
    identifier, value = ids.make_id(1, 2, random), int.from_bytes(random, "big")
    assert identifier.int >> 64 & 0xFFF == value >> 52
    assert identifier.int & (1 << 52) - 1 == value & (1 << 52) - 1


def test_a_fresh_id_says_when_it_was_made_and_for_which_key() -> None:
    identifier = ids.new_id("GOLD")
    assert abs(ids.time_of(identifier) - datetime.now(UTC)) < timedelta(seconds=5)
    assert ids.bucket_of(identifier) == ids.bucket_of_key("GOLD")
    assert ids.new_id("GOLD") != ids.new_id("GOLD")


def test_a_key_has_the_same_bucket_for_ever() -> None:
    """Rows are found by it: a change would lose them."""
    assert [ids.bucket_of_key(key) for key in ("", "GOLD", "a")] == [910, 1005, 810]


@given(st.text())
def test_every_key_has_a_bucket(key: str) -> None:
    assert ids.bucket_of_key(key) in range(ids.BUCKETS)


def test_keys_spread_over_all_buckets() -> None:
    used = {ids.bucket_of_key(str(number)) for number in range(20_000)}
    assert len(used) == ids.BUCKETS


@given(st.uuids())
def test_a_name_survives_being_read(identifier: UUID) -> None:
    assert ids.parse_name("tokens", ids.resource_name("tokens", identifier)) == identifier


GOOD = "01890000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "tokens",
        "tokens/",
        GOOD,
        f"ledgers/{GOOD}",
        f"tokens/{GOOD}/x",
        f"tokens/{GOOD.upper().replace('0189', 'ABCD')}",
        f"tokens/{{{GOOD}}}",
        f"tokens/{GOOD.replace('-', '')}",
        f"tokens/urn:uuid:{GOOD}",
        f"tokens/ {GOOD}",
        f"tokens/{GOOD}\n",
        f"Tokens/{GOOD}",
        "tokens/../" + GOOD,
        "tokens/\u0661" + GOOD[1:],
    ],
)
def test_a_name_of_another_form_is_refused_by_field(name: str) -> None:
    with pytest.raises(Error) as caught:
        ids.parse_name("tokens", name, "token")
    assert (caught.value.code, caught.value.reason) == (Code.INVALID_ARGUMENT, "INVALID_NAME")
    assert caught.value.violations[0][0] == "token"


def test_time_order_is_kept_within_a_process() -> None:
    first = ids.new_id("a")
    time.sleep(0.002)
    assert first < ids.new_id("b")
