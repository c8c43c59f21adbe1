"""What a creator keeps here: a profile, projects, and tokens that everybody finds."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from mesh.cli.client import CallError, Client
from tests.support.installation import (
    approve_everything,
    deployed,
    finished,
    new_symbol,
    quoted_body,
)


def project_body(name: str = "A project", **fields: Any) -> dict[str, Any]:
    return {"requestId": str(uuid4()), "project": {"displayName": name} | fields}


async def refused(work: Any) -> tuple[int, str]:
    """Status and reason of a refusal."""
    with pytest.raises(CallError) as caught:
        await work
    return caught.value.status, caught.value.reason


# Profiles.


async def test_a_profile_begins_empty_and_keeps_what_is_written(alice: Client, bob: Client) -> None:
    empty = (await alice.rest("GET", "/v1/users/me")).body
    assert empty["name"] == f"users/{alice.principal}"
    assert ("createTime" in empty, empty.get("displayName", "")) == (False, "")

    profile = {"displayName": "Alice ☂", "website": "https://alice.example"}
    body = {"requestId": str(uuid4()), "profile": profile}
    written = (await alice.rest("PATCH", "/v1/users/me", body)).body
    assert profile.items() <= written.items()
    assert (await alice.rest("GET", "/v1/users/me")).body == written

    cleared = {"requestId": str(uuid4()), "profile": {}, "updateMask": "website"}
    after = (await alice.rest("PATCH", "/v1/users/me", cleared)).body
    assert (after["website"], after["displayName"]) == ("", "Alice ☂")
    assert (await bob.rest("GET", "/v1/users/me")).body["displayName"] == ""


# Projects.


async def test_a_project_is_its_owners_alone(alice: Client, bob: Client) -> None:
    """What is somebody else's answers as what is not there."""
    project = (await alice.rest("POST", "/v1/projects", project_body(description="ours"))).body
    assert (project["owner"], project["state"]) == (alice.principal, "PROJECT_STATE_DRAFT")
    assert (await alice.rest("GET", f"/v1/{project['name']}")).body == project

    theft = {"requestId": str(uuid4()), "project": {"displayName": "Mine now"}}
    for name in (project["name"], f"projects/{uuid4()}"):
        assert await refused(bob.rest("GET", f"/v1/{name}")) == (404, "PROJECT_NOT_FOUND")
        assert await refused(bob.rest("PATCH", f"/v1/{name}", theft)) == (404, "PROJECT_NOT_FOUND")
    assert (await alice.rest("GET", f"/v1/{project['name']}")).body == project


async def test_a_project_is_changed_from_what_was_seen(alice: Client) -> None:
    project = (await alice.rest("POST", "/v1/projects", project_body())).body
    change = {"displayName": "Another name", "etag": project["etag"]}
    path = f"/v1/{project['name']}"
    body = {"requestId": str(uuid4()), "project": change}
    changed = (await alice.rest("PATCH", path, body)).body
    assert (changed["displayName"], changed["etag"] == project["etag"]) == ("Another name", False)
    stale = body | {"requestId": str(uuid4())}
    assert await refused(alice.rest("PATCH", path, stale)) == (409, "ETAG_MISMATCH")


async def test_a_project_gets_one_token(alice: Client, bob: Client) -> None:
    project = (await alice.rest("POST", "/v1/projects", project_body())).body
    await approve_everything(alice)
    await approve_everything(bob)
    order = await quoted_body(alice) | {"project": project["name"]}
    deployment = (await alice.rest("POST", "/v1/tokens", order)).body
    ended = await finished(alice, deployment["name"])
    owned = (await alice.rest("GET", f"/v1/{project['name']}")).body
    assert (owned["state"], owned["token"]) == ("PROJECT_STATE_COMPLETED", ended["token"])

    second = await quoted_body(alice) | {"project": project["name"]}
    again = await refused(alice.rest("POST", "/v1/tokens", second))
    assert again == (400, "PROJECT_HAS_TOKEN")
    foreign = await quoted_body(bob) | {"project": project["name"]}
    assert await refused(bob.rest("POST", "/v1/tokens", foreign)) == (404, "PROJECT_NOT_FOUND")


# Ids.


async def test_things_that_are_made_at_once_have_names_of_their_own(alice: Client) -> None:
    """Names made from a time collide (F-23)."""
    bodies = [project_body(f"project {number}") for number in range(50)]
    answers = await asyncio.gather(*(alice.rest("POST", "/v1/projects", body) for body in bodies))
    assert len({answer.body["name"] for answer in answers}) == len(bodies)

    pages, token = list[str](), ""
    while True:
        listed = await alice.rest("GET", f"/v1/projects?pageSize=20&pageToken={token}")
        pages += [project["displayName"] for project in listed.body["projects"]]
        token = listed.body["nextPageToken"]
        if not token:
            break
    assert sorted(pages) == sorted(body["project"]["displayName"] for body in bodies)


# Tokens.


async def test_a_token_belongs_to_the_user_who_ordered_it(alice: Client, bob: Client) -> None:
    """Not to the platform, which deployed it; and whoever counts, counts (F-24)."""
    for _ in range(2):
        await deployed(alice)
    last = await deployed(alice, decimals=2)
    token = (await bob.rest("GET", f"/v1/{last['token']}")).body
    assert (token["owner"], token["state"]) == (alice.principal, "TOKEN_STATE_ACTIVE")
    assert token["spec"]["decimals"] == 2

    mine = (await bob.rest("GET", f"/v1/tokens?owner={alice.principal}&pageSize=2")).body
    rest = f"/v1/tokens?owner={alice.principal}&pageToken={mine['nextPageToken']}"
    found = mine["tokens"] + (await bob.rest("GET", rest)).body["tokens"]
    assert len(found) == 3
    token["spec"]["initialBalances"] = []  # whole by Get alone
    assert found[0] == token
    assert {one["owner"] for one in found} == {alice.principal}
    assert (await alice.rest("GET", "/v1/users/me")).body["deploymentCount"] == 3
    account = f"/v1/{token['ledger']}/accounts/{alice.principal}"
    assert (await bob.rest("GET", account)).body["balance"] == token["spec"]["totalSupply"]


async def test_a_token_is_found_by_symbol_and_by_every_word_of_its_name(alice: Client) -> None:
    symbol = new_symbol()
    word = f"Ñandú{symbol[:4].lower()}"
    token = (await deployed(alice, symbol=symbol, displayName=f"The {word} coin"))["token"]
    for query in (symbol, symbol.lower(), symbol[:5], word, word.upper(), f"  {word[:6]} "):
        assert token in await search(alice, query), query
    for query in (symbol[1:], word[1:], f"{symbol}X"):
        assert token not in await search(alice, query), query


async def search(client: Client, query: str) -> list[str]:
    """Names of the tokens that a search finds, over all its pages."""
    found, token = list[str](), ""
    while True:
        parameters = f"query={query}&pageSize=50&pageToken={token}"
        page = (await client.rest("GET", f"/v1/tokens:search?{parameters}")).body
        found += [one["name"] for one in page["tokens"]]
        token = page["nextPageToken"]
        if not token:
            return found


async def test_a_symbol_goes_to_one_of_those_who_want_it_at_once(
    alice: Client, bob: Client
) -> None:
    """Reserved before the chain is asked, whatever its case (F-26, F-63); others get back all."""
    symbol = new_symbol()
    spellings = (symbol, symbol.lower(), symbol.capitalize())
    await approve_everything(alice)
    await approve_everything(bob)

    async def ordered(client: Client, spelling: str) -> dict[str, Any]:
        try:
            accepted = await client.rest(
                "POST", "/v1/tokens", await quoted_body(client, symbol=spelling)
            )
        except CallError as error:
            return {"state": error.reason}
        return await finished(client, accepted.body["name"])

    ended = await asyncio.gather(
        *(ordered(client, spelling) for client in (alice, bob) for spelling in spellings)
    )
    won = [one for one in ended if one["state"] == "DEPLOYMENT_STATE_SUCCEEDED"]
    lost = [one for one in ended if one not in won]
    assert len(won) == 1
    for one in lost:
        assert "SYMBOL_TAKEN" in (one["state"], one.get("error", {}).get("reason"))
    for spelling in spellings:
        free = (await bob.rest("GET", f"/v1/symbols/{spelling}:check")).body["available"]
        assert free is False


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"totalSupply": "0"}, "total_supply"),
        ({"totalSupply": str(2**128)}, "total_supply"),
        ({"decimals": 19}, "decimals"),
        ({"transferFee": "1000001"}, "transfer_fee"),
        ({"symbol": "A"}, "symbol"),
        ({"symbol": "TOO LONG"}, "symbol"),
        ({"displayName": "xy"}, "display_name"),
        ({"website": "javascript:alert(1)"}, "website"),
        ({"website": "https://someone@example.com"}, "website"),
        ({"website": 'https://example.com/"onload="x'}, "website"),
        ({"logo": "data:text/html,x"}, "logo"),
        ({"logo": "data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9J3gnLz4="}, "logo"),
        ({"logo": 'data:image/png,"onload="x'}, "logo"),
        ({"logo": "data:image/png;base64,PHN2ZyBvbmxvYWQ9J3gnLz4="}, "logo"),
        (
            {
                "initialBalances": [
                    {"account": {"owner": "2vxsx-fae"}, "amount": "1"},
                    {"account": {"owner": "aaaaa-aa"}, "amount": "1000000000"},
                ]
            },
            "initial_balances",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_order_is_checked_before_anything_is_charged(
    alice: Client, wrong: dict[str, Any], field: str
) -> None:
    """Sums, bounds and forms, all of them before the money (F-12, F-26)."""
    await approve_everything(alice)
    before = await balance(alice)
    order = await quoted_body(alice, **wrong)
    with pytest.raises(CallError) as caught:
        await alice.rest("POST", "/v1/tokens", order)
    assert caught.value.status == 400
    fields = {violation["field"] for violation in caught.value.problem.get("violations", [])}
    assert field in str(fields) + str(caught.value)
    assert await balance(alice) == before
    assert (await alice.rest("GET", "/v1/deployments")).body["deployments"] == []


async def balance(client: Client) -> int:
    """What a user has of the fee token."""
    account = await client.rest("GET", f"/v1/ledgers/icp/accounts/{client.principal}")
    return int(account.body["balance"])
