"""Behind a proxy everybody would be one address: whose word about addresses counts."""

import asyncio
import itertools
from dataclasses import replace
from typing import Final

import pytest

from tests.conftest import NARROW_SIGN_INS, PROXY
from tests.support.edge import Edge, Rest, caller
from tests.support.installation import Installation
from tests.support.lab import JSON

CHALLENGE: Final = Rest("POST", "/v1/challenges", b"{}", JSON)
_NUMBERS: Final = itertools.count(1)


def client() -> str:
    """An address that nobody has used (RFC 5737)."""
    return f"203.0.113.{next(_NUMBERS)}"


async def limited(edge: Edge, *forwarded: str) -> list[bool]:
    """For each of some calls, whether it was one too many; `forwarded` is told of its client."""
    calls = (
        edge.rest(replace(CHALLENGE, headers={**JSON, "x-forwarded-for": told}))
        for told in forwarded
    )
    return [outcome.reason == "RATE_LIMITED" for outcome in await asyncio.gather(*calls)]


@pytest.mark.parametrize("form", ["{0}", "198.51.100.1, {0}", "{0}, 127.0.9.9", "{0},127.0.9.8"])
async def test_clients_behind_a_trusted_proxy_have_addresses_of_their_own(
    narrow: Installation, form: str
) -> None:
    """One that is limited locks nobody else out, whatever the client itself put into the list."""
    one, other = form.format(client()), form.format(client())
    async with caller(narrow.target, local_address=PROXY) as proxy:
        *many, last = await limited(proxy, *[one] * 6 * NARROW_SIGN_INS, other)
    assert any(many)
    assert not last


async def test_a_client_behind_a_trusted_proxy_gets_no_second_address(narrow: Installation) -> None:
    """What it puts in front of its own address counts for nothing."""
    one = client()
    async with caller(narrow.target, local_address=PROXY) as proxy:
        assert any(
            await limited(proxy, *(f"{client()}, {one}" for _ in range(6 * NARROW_SIGN_INS)))
        )


@pytest.mark.parametrize("header", ["x-forwarded-for", "x-real-ip", "forwarded", "x-icto-address"])
async def test_who_is_no_trusted_proxy_is_who_they_are(narrow: Installation, header: str) -> None:
    """Whatever address they name, and in whichever header."""
    place = f"127.0.8.{next(_NUMBERS)}"
    async with caller(narrow.target, local_address=place) as edge:
        told = await asyncio.gather(
            *(
                edge.rest(replace(CHALLENGE, headers={**JSON, header: client()}))
                for _ in range(6 * NARROW_SIGN_INS)
            )
        )
    assert any(outcome.reason == "RATE_LIMITED" for outcome in told)
