"""The rules of signing in: what is signed, what a token says, when keys change, who gives roles."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.bindings import crypto_core_ed25519_is_valid_point

from contract.errors import Code, Error, invalid
from contract.tokens import COOKIE, ISSUER
from contract.wire import SUSPENDED

CHALLENGE_LIFETIME: Final = timedelta(seconds=60)
TOKEN_LIFETIME: Final = timedelta(minutes=5)
KEY_LIFETIME: Final = timedelta(hours=24)
KEY_LEAD: Final = timedelta(minutes=10)
"""A key is published this long before it signs, so that every Envoy knows it by then."""

ACTIVE: Final = 1
"""UserStatus of users who may act."""

DENY_MARGIN: Final = timedelta(minutes=1)
"""How much longer than any token a user stays on the edge's deny list."""

DENY_LIMIT: Final = 50_000

SUPER_ADMIN: Final = "SUPER_ADMIN"
_POINT_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs tokens from `activate_time` on and verifies them until `retire_time`."""

    kid: str
    private_key: bytes
    activate_time: datetime
    retire_time: datetime

    @property
    def key(self) -> Ed25519PrivateKey:
        """The key itself."""
        return Ed25519PrivateKey.from_private_bytes(self.private_key)

    @property
    def public_bytes(self) -> bytes:
        """The public key, 32 bytes."""
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def check_origin(origin: str, own: Collection[str]) -> None:
    """Passes when an origin is one of this installation's own, spelled in its one form.

    A client that is connected to somebody else, who passes our challenges on, says so here or in
    what it signs.

    Raises:
        Error: INVALID_ARGUMENT, it is not.
    """
    if origin not in own:
        raise Error(
            Code.INVALID_ARGUMENT,
            "ORIGIN_UNKNOWN",
            f"This installation is not known as {origin!r}. Connect to one of {', '.join(own)}, or"
            " have its operator add the origin to [edge] origins in mesh.toml.",
            violations=(("origin", "must be an origin of this installation."),),
        )


def check_key(public_key: bytes) -> None:
    """Passes when bytes are a public key that somebody has the private half of.

    For points of small order signatures are found without any key, and a second encoding of a point
    would be a second principal (RFC 8032; "Taming the many EdDSAs", Chalkias et al. 2020).

    Raises:
        Error: INVALID_ARGUMENT, they are not.
    """
    if not crypto_core_ed25519_is_valid_point(public_key):
        problem = "must be the canonical encoding of an Ed25519 key"
        raise invalid("public_key", problem, "INVALID_KEY")


def check_signature(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Passes when the message was signed with the key, in the one way that the key's owner signs.

    Raises:
        Error: UNAUTHENTICATED, it was not.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        raise _signature_refused() from None
    if not crypto_core_ed25519_is_valid_point(signature[:_POINT_BYTES]):
        raise _signature_refused()


def _signature_refused() -> Error:
    return Error(
        Code.UNAUTHENTICATED, "SIGNATURE_INVALID", "The signature does not fit the challenge."
    )


def challenge_refused() -> Error:
    """The challenge was used, expired, is another key's, or never was: told alike."""
    return Error(
        Code.UNAUTHENTICATED,
        "CHALLENGE_INVALID",
        "The challenge was used or has expired; ask for a fresh one.",
    )


def cookie_lifetime(longest_stream: float) -> timedelta:
    """How long the cookie lives, if streams live so many seconds.

    An access token's last moment may open one, and its browser comes back at its end.
    """
    return TOKEN_LIFETIME + timedelta(seconds=longest_stream)


def claims(
    user: str,
    roles: Iterable[str],
    status: int,
    audience: str,
    issued: datetime,
    lifetime: timedelta = TOKEN_LIFETIME,
) -> dict[str, Any]:
    """Claims of an access token (RFC 7519); `roles` are separated by spaces."""
    standing = {} if status == ACTIVE else {"status": SUSPENDED}
    return standing | {
        "iss": ISSUER,
        "aud": audience,
        "sub": user,
        "roles": " ".join(sorted(roles)),
        "iat": int(issued.timestamp()),
        "exp": int((issued + lifetime).timestamp()),
    }


def session_cookie(token: str, lifetime: timedelta, *, https: bool) -> str:
    """The Set-Cookie header (RFC 6265) that lets a page follow event streams.

    No script reads it, no page of another site has it sent, and it goes with its token.
    """
    attributes = ["HttpOnly", "SameSite=Strict", "Path=/v1"]
    attributes.append(f"Max-Age={int(lifetime.total_seconds())}")
    if https:
        attributes.append("Secure")
    return "; ".join((f"{COOKIE}={token}", *attributes))


def signing_key(keys: Sequence[SigningKey], now: datetime) -> SigningKey:
    """The key to sign with: the newest that is active."""
    return max((key for key in keys if key.activate_time <= now), key=lambda k: k.activate_time)


def next_activation(keys: Sequence[SigningKey], now: datetime) -> datetime | None:
    """When a key that is made now shall begin to sign; None when none is due.

    It signs while its predecessor's tokens can still be verified: after a long sleep that is sooner
    than every Envoy knows it.
    """
    newest = max((key.activate_time for key in keys), default=None)
    if newest is None:
        return now
    due = newest + KEY_LIFETIME
    latest = max(now, retirement(newest) - TOKEN_LIFETIME)
    return min(max(due, now + KEY_LEAD), latest) if now >= due - KEY_LEAD else None


def retirement(activate_time: datetime) -> datetime:
    """Until when a key is published: its successor signs, and its last token has expired."""
    return activate_time + KEY_LIFETIME + KEY_LEAD + 2 * TOKEN_LIFETIME


def check_upon(actor: frozenset[str], other: frozenset[str]) -> None:
    """Passes when somebody may act upon a person: change their status, give or take a role.

    Args:
        actor: permissions of who acts.
        other: permissions of the person, those included that they are about to get.

    Raises:
        Error: PERMISSION_DENIED, the person holds one that the actor lacks.
    """
    more = sorted(other - actor)
    if more:
        raise Error(
            Code.PERMISSION_DENIED,
            "TARGET_HOLDS_MORE",
            f"This person may {', '.join(more)}, and you may not; ask somebody who may.",
            metadata={"permissions": " ".join(more)},
        )


def check_revocation(actor: str, target: str, role: str) -> None:
    """Passes when the actor may take the role from the target.

    Raises:
        Error: FAILED_PRECONDITION, nobody takes a role from themselves or unseats a super-admin.
    """
    if actor == target:
        raise _kept("Nobody takes a role from themselves; ask another super-admin.")
    if role == SUPER_ADMIN:
        raise _kept("A super-admin cannot be removed here.")


def check_suspension(actor: str, target: str) -> None:
    """Passes when the actor may change the target's status.

    Raises:
        Error: FAILED_PRECONDITION, nobody suspends or restores themselves.
    """
    if actor == target:
        raise Error(Code.FAILED_PRECONDITION, "OWN_STATUS", "Nobody changes their own status.")


def _kept(message: str) -> Error:
    return Error(Code.FAILED_PRECONDITION, "ROLE_KEPT", message)
