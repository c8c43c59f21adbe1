"""Signing in: what is signed, what a token says, when keys change, who gives roles."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway import domain
from gateway.domain import KEY_LEAD, KEY_LIFETIME, TOKEN_LIFETIME, SigningKey
from icto.identity.v1 import identity_pb2
from observability.names import SUSPENDED
from services.kit import principal
from services.kit.errors import Code, Error

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
CHALLENGE = UUID(int=5)


def message(audience: str = "icto", public: bytes = PUBLIC, moment: datetime = NOW) -> bytes:
    return domain.challenge_message(CHALLENGE, public, audience, moment)


def test_a_challenge_names_what_it_is_good_for() -> None:
    lines = message().decode().splitlines()
    assert lines == [
        "Sign in to ICTO",
        "audience: icto",
        f"principal: {principal.of_public_key(PUBLIC)}",
        f"challenge: {CHALLENGE}",
        "expires: 2026-01-01T12:00:00Z",
    ]


def test_a_signature_is_good_for_one_challenge_at_one_audience() -> None:
    signature = KEY.sign(message())
    domain.check_signature(PUBLIC, signature, message())
    for other in (message("other"), message(public=bytes(32)), message(moment=NOW + KEY_LEAD)):
        with pytest.raises(Error) as caught:
            domain.check_signature(PUBLIC, signature, other)
        assert caught.value.reason == "SIGNATURE_INVALID"


@pytest.mark.parametrize("public", [bytes(32), b"\xff" * 32, bytes(31) + b"\x80"])
def test_bytes_that_are_no_key_verify_nothing(public: bytes) -> None:
    with pytest.raises(Error) as caught:
        domain.check_signature(public, b"\x01" * 64, b"message")
    assert caught.value.code is Code.UNAUTHENTICATED


def test_a_challenge_that_is_no_longer_good_does_not_say_why() -> None:
    assert domain.challenge_refused().code is Code.UNAUTHENTICATED


@pytest.mark.parametrize(("https", "tail"), [(False, ""), (True, "; Secure")])
def test_a_cookie_is_for_browsers_alone(https: bool, tail: str) -> None:
    cookie = domain.session_cookie("a.b.c", https=https)
    assert cookie == f"icto_session=a.b.c; HttpOnly; SameSite=Strict; Path=/v1; Max-Age=300{tail}"


def test_a_token_lives_five_minutes_for_one_audience() -> None:
    claims = domain.claims("user", ["READ_ONLY", "ADMIN"], domain.ACTIVE, "icto", NOW)
    assert claims == {
        "iss": "icto",
        "aud": "icto",
        "sub": "user",
        "roles": "ADMIN READ_ONLY",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 300,
    }


def test_a_token_tells_that_its_user_is_suspended() -> None:
    status = identity_pb2.USER_STATUS_SUSPENDED
    assert domain.claims("user", [], status, "icto", NOW)["status"] == SUSPENDED


def test_an_active_user_has_the_number_of_the_proto() -> None:
    assert domain.ACTIVE == identity_pb2.USER_STATUS_ACTIVE


def key_from(activate_time: datetime) -> SigningKey:
    return SigningKey(
        str(activate_time), bytes(32), activate_time, domain.retirement(activate_time)
    )


def test_the_newest_active_key_signs() -> None:
    keys = [key_from(NOW - KEY_LIFETIME), key_from(NOW), key_from(NOW + KEY_LEAD)]
    assert domain.signing_key(keys, NOW) is keys[1]
    assert domain.signing_key(keys, NOW - timedelta(seconds=1)) is keys[0]


def test_the_first_key_signs_at_once() -> None:
    assert domain.next_activation([], NOW) == NOW


@given(st.integers(0, 24 * 60 + 5).map(lambda minutes: NOW + timedelta(minutes=minutes)))
def test_a_key_is_known_to_every_envoy_before_it_signs(now: datetime) -> None:
    due = domain.next_activation([key_from(NOW)], now)
    if now < NOW + KEY_LIFETIME - KEY_LEAD:
        assert due is None
    else:
        assert due is not None
        assert due >= now + KEY_LEAD
        assert due >= NOW + KEY_LIFETIME


@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=60))
def test_there_is_always_a_key_whose_tokens_can_be_verified(pauses: list[int]) -> None:
    """However long the platform was away in between, at whatever moment it comes back."""
    keys, now = [key_from(NOW)], NOW
    for pause in pauses:
        now += timedelta(minutes=pause)
        keys = [key for key in keys if key.retire_time > now]
        activation = domain.next_activation(keys, now)
        if activation is not None:
            keys.append(key_from(activation))
        assert domain.signing_key(keys, now).retire_time >= now + TOKEN_LIFETIME


def test_a_key_knows_its_public_half() -> None:
    assert key_from(NOW).public_bytes == PUBLIC


def test_nobody_takes_a_role_from_themselves_or_unseats_a_super_admin() -> None:
    """Domain 1.1, rules about admin management."""
    domain.check_revocation("boss", "other", "ADMIN")
    for actor, target, role in (("boss", "boss", "ADMIN"), ("boss", "other", "SUPER_ADMIN")):
        with pytest.raises(Error) as caught:
            domain.check_revocation(actor, target, role)
        assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "ROLE_KEPT")


def test_nobody_changes_their_own_status() -> None:
    domain.check_suspension("boss", "other")
    with pytest.raises(Error) as caught:
        domain.check_suspension("boss", "boss")
    assert caught.value.reason == "OWN_STATUS"
