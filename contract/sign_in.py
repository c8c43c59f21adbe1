"""What people sign to sign in. The gateway and every client build it by themselves.

It has the fields of EIP-4361 ("Sign-In with Ethereum"; CAIP-122 for other chains). The origin in it
is the one that the client connected to: signed elsewhere, it is worth nothing here, and the other
way round.
"""

import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

ORIGIN_PATTERN: Final = r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?"
"""An origin in its one form (RFC 6454), default ports not yet left out."""
AUDIENCE_PATTERN: Final = r"[!-~]{1,100}"
"""The name of an installation: a part of one line."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def origin_of(address: str) -> str:
    """The origin of an http or https address; of `https://Icto.example:443/v1` without `:443/v1`.

    Raises:
        ValueError: the address has none.
    """
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port
    named = f"[{host}]" if ":" in host else host
    shown = "" if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{port}"
    origin = f"{parts.scheme}://{named}{shown}"
    if not re.fullmatch(ORIGIN_PATTERN, origin):
        raise ValueError(f"{address!r} is not an address like https://icto.example")
    return origin


def message(
    origin: str,
    user: str,
    challenge_id: UUID,
    audience: str,
    issue_time: datetime,
    expire_time: datetime,
) -> bytes:
    """The bytes that the user, a principal, signs.

    Raises:
        ValueError: the audience is not a name, so that it might be a text of somebody's choice.
    """
    if not re.fullmatch(AUDIENCE_PATTERN, audience):
        raise ValueError("the audience is not a name")
    return "\n".join(
        (
            f"{origin} wants you to sign in with your Internet Computer account:",
            user,
            "",
            "Sign in to ICTO.",
            "",
            f"URI: {origin}",
            "Version: 1",
            f"Nonce: {challenge_id.hex}",
            f"Issued At: {_time(issue_time)}",
            f"Expiration Time: {_time(expire_time)}",
            "Resources:",
            f"- urn:icto:audience:{audience}",
        )
    ).encode()


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
