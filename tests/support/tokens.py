"""Access tokens of every kind, signed with the gateway's own keys or with others."""

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract import principal
from gateway import domain
from gateway.domain import SigningKey
from tests.support.installation import Installation

_KEYS: Final = """
SELECT kid, private_key, activate_time, retire_time FROM gateway.signing_keys
WHERE activate_time <= now() ORDER BY activate_time DESC LIMIT 1
"""


def somebody() -> str:
    """A principal that nobody has used."""
    return principal.of_public_key(os.urandom(32))


@dataclass(frozen=True)
class Mint:
    """Makes tokens as the gateway does, and as nobody should."""

    key: SigningKey
    audience: str

    def token(
        self, user: str = "", roles: Iterable[str] = (), *, key: Any = None, **changes: Any
    ) -> str:
        """A token for a user; `changes` are claims that differ from what the gateway writes."""
        now = datetime.now(UTC)
        claims = (
            domain.claims(user or somebody(), roles, domain.ACTIVE, self.audience, now) | changes
        )
        return jwt.encode(
            claims, key or self.key.key, algorithm="EdDSA", headers={"kid": self.key.kid}
        )

    @property
    def anybody(self) -> str:
        """A good one, for somebody new."""
        return self.token()

    @property
    def expired(self) -> str:
        """Good once, and long past every allowance for clocks."""
        return self.token(exp=int(time.time()) - 60)

    @property
    def forged(self) -> str:
        """Signed with somebody else's key under the gateway's key id."""
        return self.token(key=Ed25519PrivateKey.generate())

    @property
    def unsigned(self) -> str:
        """With the algorithm "none"."""
        _, payload, _ = self.token().split(".")
        return f"{_segment({'alg': 'none', 'kid': self.key.kid})}.{payload}."

    @property
    def confused(self) -> str:
        """Signed by HMAC with the public key, which everybody has."""
        _, payload, _ = self.token().split(".")
        signed = f"{_segment({'alg': 'HS256', 'kid': self.key.kid})}.{payload}"
        digest = hmac.new(self.key.public_bytes, signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{_encoded(digest)}"

    @property
    def elsewhere(self) -> str:
        """For another installation."""
        return self.token(aud="elsewhere")

    @property
    def foreign(self) -> str:
        """By another issuer."""
        return self.token(iss="somebody")


async def mint_of(mesh: Installation) -> Mint:
    """The mint of an installation."""
    async with mesh.superuser() as database:
        row = await database.fetchrow(_KEYS)
        audience = await database.fetchval("SELECT audience FROM gateway.installation")
    assert row is not None
    return Mint(SigningKey(*row), audience)


def _segment(value: Any) -> str:
    return _encoded(json.dumps(value).encode())


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
