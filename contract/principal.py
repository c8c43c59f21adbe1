"""Principals and accounts in the Internet Computer's text forms.

Sources: the Internet Computer interface specification (principals), ICRC-1 (textual encoding of
accounts). A principal is up to 29 bytes; ours are self-authenticating (from a public key) or, for
a mesh service, derived from its name.
"""

import base64
import hashlib
import zlib
from functools import cache
from typing import Final

ANONYMOUS: Final = "2vxsx-fae"
MANAGEMENT: Final = "aaaaa-aa"
"""The Internet Computer's management canister: no bytes at all, and often a field left empty."""
DEFAULT_SUBACCOUNT: Final = bytes(32)
_SELF_AUTHENTICATING: Final = b"\x02"
_DERIVED: Final = b"\x03"
_MAX_BYTES: Final = 29
_CHECKSUM_BYTES: Final = 4
_ED25519_DER_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")


def of_public_key(public_key: bytes) -> str:
    """Text of the principal of a raw Ed25519 public key."""
    der = _ED25519_DER_PREFIX + public_key
    return encode(hashlib.sha224(der).digest() + _SELF_AUTHENTICATING)


@cache
def of_service(mesh_name: str) -> str:
    """Text of the principal that a mesh service acts under. Nobody holds a key to it."""
    return encode(hashlib.sha224(b"\x09icto-mesh" + mesh_name.encode()).digest() + _DERIVED)


def encode(raw: bytes) -> str:
    """Text of a principal: base32 of checksum and bytes, in groups of five."""
    checksum = zlib.crc32(raw).to_bytes(_CHECKSUM_BYTES, "big")
    text = _base32(checksum + raw)
    return "-".join(text[i : i + 5] for i in range(0, len(text), 5))


def decode(text: str) -> bytes:
    """Bytes of a principal.

    Raises:
        ValueError: not the canonical text of a principal.
    """
    compact = text.replace("-", "").upper()
    padded = compact + "=" * (-len(compact) % 8)
    raw = base64.b32decode(padded)[_CHECKSUM_BYTES:]
    if len(raw) > _MAX_BYTES or encode(raw) != text:
        raise ValueError("not a principal")
    return raw


def is_principal(text: str) -> bool:
    """Whether a text is the canonical form of a principal."""
    try:
        decode(text)
    except ValueError:
        return False
    return True


def is_person(text: str) -> bool:
    """Whether a text is a principal that somebody may act under.

    Whatever names a person asks this: what is given to the anonymous principal is everybody's, and
    what is given to the management canister is lost.
    """
    return is_principal(text) and text not in (ANONYMOUS, MANAGEMENT)


def canonical(text: str) -> str:
    """A principal, an account or a resource name in lower case, which any case stands for.

    Parts that are neither principal nor account stay as they are.
    """
    return "/".join(map(_canonical_part, text.split("/")))


def _canonical_part(part: str) -> str:
    lowered = part.lower()
    try:
        decode_account(lowered)
    except ValueError:
        return part
    return lowered


def encode_account(owner: str, subaccount: bytes = DEFAULT_SUBACCOUNT) -> str:
    """ICRC-1 text of an account. The default account is just its owner."""
    if subaccount == DEFAULT_SUBACCOUNT:
        return owner
    checksum = zlib.crc32(decode(owner) + subaccount).to_bytes(_CHECKSUM_BYTES, "big")
    return f"{owner}-{_base32(checksum)}.{subaccount.hex().lstrip('0')}"


def decode_account(text: str) -> tuple[str, bytes]:
    """Owner and 32-byte subaccount of an ICRC-1 account text.

    Raises:
        ValueError: not the canonical text of an account.
    """
    head, dot, tail = text.partition(".")
    if not dot:
        decode(text)
        return text, DEFAULT_SUBACCOUNT
    owner, _, _ = head.rpartition("-")
    subaccount = bytes.fromhex(tail.zfill(64))
    if len(subaccount) != len(DEFAULT_SUBACCOUNT) or encode_account(owner, subaccount) != text:
        raise ValueError("not an account")
    return owner, subaccount


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()
