"""Signing in: what is signed, what a token says, when keys change, who gives roles."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from contract import principal, sign_in
from contract.errors import Code, Error
from contract.wire import SUSPENDED
from gateway import domain
from gateway.domain import KEY_LEAD, KEY_LIFETIME, TOKEN_LIFETIME, SigningKey
from icto.identity.v1 import identity_pb2

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
CHALLENGE = UUID(int=5)


ORIGIN = "https://icto.example"


def message(
    audience: str = "icto", public: bytes = PUBLIC, moment: datetime = NOW, origin: str = ORIGIN
) -> bytes:
    user, issued = principal.of_public_key(public), moment - domain.CHALLENGE_LIFETIME
    return sign_in.message(origin, user, CHALLENGE, audience, issued, moment)


def test_a_challenge_names_what_it_is_good_for() -> None:
    assert message().decode().split("\n") == [
        "https://icto.example wants you to sign in with your Internet Computer account:",
        principal.of_public_key(PUBLIC),
        "",
        "Sign in to ICTO.",
        "",
        "URI: https://icto.example",
        "Version: 1",
        "Nonce: 00000000000000000000000000000005",
        "Issued At: 2026-01-01T11:59:00Z",
        "Expiration Time: 2026-01-01T12:00:00Z",
        "Resources:",
        "- urn:icto:audience:icto",
    ]


@pytest.mark.parametrize("audience", ["", "a b", "a\nb", "a\x00b", "é", "a" * 101])
def test_a_text_of_somebody_s_choice_is_no_audience(audience: str) -> None:
    with pytest.raises(ValueError, match="audience"):
        message(audience)


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://Icto.Example:80/v1?x#y", "http://icto.example"),
        ("https://icto.example:443", "https://icto.example"),
        ("https://icto.example:80", "https://icto.example:80"),
        ("HTTP://[::1]:8080/", "http://[::1]:8080"),
        ("https://user:secret@icto.example", "https://icto.example"),
    ],
)
def test_an_address_has_one_origin(address: str, origin: str) -> None:
    assert sign_in.origin_of(address) == origin


@pytest.mark.parametrize(
    "address", ["", "icto.example", "ftp://icto.example", "http://", "http://a b", "http://x:99999"]
)
def test_what_is_no_address_has_no_origin(address: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # urllib's own words, for a port
        sign_in.origin_of(address)


def test_people_sign_in_at_our_own_origins_alone() -> None:
    domain.check_origin(ORIGIN, (ORIGIN,))
    for other in (
        "",
        "https://icto.example.evil",
        "https://icto.example:443",
        "https://ICTO.example",
    ):
        with pytest.raises(Error) as caught:
            domain.check_origin(other, (ORIGIN,))
        assert caught.value.reason == "ORIGIN_UNKNOWN"
        assert ORIGIN in caught.value.message


# Every encoding of a point of small order, and every second encoding of a point (Chalkias, Garillot
# and Nikolaenko: "Taming the many EdDSAs", 2020, table 4; libsodium's blocklist).
P = 2**255 - 19
SMALL_ORDER: Final = [
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
]
NOT_CANONICAL: Final = [
    (y + sign * 2**255).to_bytes(32, "little") for y in range(P, 2**255) for sign in (0, 1)
]


@pytest.mark.parametrize("public", [*SMALL_ORDER, *NOT_CANONICAL], ids=bytes.hex)
def test_a_key_that_nobody_holds_or_that_has_two_forms_is_none(public: bytes) -> None:
    with pytest.raises(Error) as caught:
        domain.check_key(public)
    assert caught.value.reason == "INVALID_KEY"


@given(st.binary(min_size=32, max_size=32))
def test_every_key_that_somebody_holds_is_one(seed: bytes) -> None:
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    domain.check_key(public)


@pytest.mark.parametrize("point", [*SMALL_ORDER, *NOT_CANONICAL], ids=bytes.hex)
def test_a_signature_with_such_a_point_is_none(point: bytes) -> None:
    """Also where the sums are right: for a key of small order, and for one's own key."""
    for public in (PUBLIC, SMALL_ORDER[0]):
        for scalar in (0, L):
            with pytest.raises(Error) as caught:
                domain.check_signature(public, point + scalar.to_bytes(32, "little"), b"text")
            assert caught.value.reason == "SIGNATURE_INVALID"


L: Final = 2**252 + 27742317777372353535851937790883648493


def test_a_signature_has_one_form() -> None:
    signature = KEY.sign(b"text")
    domain.check_signature(PUBLIC, signature, b"text")
    scalar = int.from_bytes(signature[32:], "little") + L
    with pytest.raises(Error):
        domain.check_signature(PUBLIC, signature[:32] + scalar.to_bytes(32, "little"), b"text")


@pytest.mark.parametrize(
    ("actor", "other", "lacking"),
    [
        ("A B", "", ""),
        ("A B", "A B", ""),
        ("", "", ""),
        ("A", "A B", "B"),
        ("", "B A", "A B"),
    ],
)
def test_nobody_acts_upon_a_person_who_may_do_more(actor: str, other: str, lacking: str) -> None:
    sets = frozenset(actor.split()), frozenset(other.split())
    if not lacking:
        domain.check_upon(*sets)
        return
    with pytest.raises(Error) as caught:
        domain.check_upon(*sets)
    assert (caught.value.reason, caught.value.metadata["permissions"]) == (
        "TARGET_HOLDS_MORE",
        lacking,
    )


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
    cookie = domain.session_cookie("a.b.c", domain.cookie_lifetime(600), https=https)
    assert cookie == f"icto_session=a.b.c; HttpOnly; SameSite=Strict; Path=/v1; Max-Age=900{tail}"


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
