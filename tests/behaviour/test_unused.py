"""What nobody pays for or uses is bounded for each user, refused early, and told with its period.

That it is forgotten is shown on the tables: test_money_rows.py, test_backend_rows.py,
test_distribution_rows.py.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from contract import loader
from contract.service import Retention
from mesh.cli.client import Client
from services.kit.testing.rehearsal import SLOW_PREFIX
from tests.support.installation import TOKEN_ORDER, Installation, token_body
from tests.support.launches import ended, lock, ordered, spec, token
from tests.support.money import approve, configured, get, post, quote_for, reason_of
from tests.support.tokens import somebody

STORED = """
SELECT (SELECT count(*) FROM backend.launches WHERE owner = $1)
    + (SELECT count(*) FROM backend.deployments WHERE owner = $1)
    + (SELECT count(*) FROM backend.kit_answers WHERE principal = $1)
"""
LISTS = """
INSERT INTO distribution_deployer.recipient_lists (id, owner, category_id, recipient_count,
    create_time, change_time)
SELECT gen_random_uuid(), $1, 1, $3, now(), now() FROM generate_series(1, $2::int)
"""
QUOTES = """
INSERT INTO invoice_storage.quotes (id, owner, lines, total, discount_basis_points, ledger,
    ledger_fee, price_revision, create_time, expire_time)
SELECT gen_random_uuid(), $1, '', 1, 0, 'ledgers/icp', 1, 1, now(), now() + interval '1 hour'
FROM generate_series(1, $2::int)
"""
Accept = Callable[[Client, str], Awaitable[Any]]


async def a_token(client: Client, quote: str) -> Any:
    return await client.rest("POST", "/v1/tokens", token_body() | {"quote": quote})


async def a_launch(client: Client, quote: str) -> Any:
    wanted = spec({"newToken": token()})
    return await post(client, "/v1/launches", spec=wanted, quote=quote)


ORDERS: dict[str, tuple[Accept, list[tuple[str, str]]]] = {
    "a token": (a_token, [TOKEN_ORDER]),
    "a launch": (a_launch, [TOKEN_ORDER, ("launch", "PAID_SERVICE_PIPELINE")]),
}


@pytest.mark.parametrize(("accept", "items"), ORDERS.values(), ids=ORDERS)
async def test_an_order_that_cannot_be_charged_is_refused_and_nothing_of_it_is_stored(
    mesh: Installation, accept: Accept, items: list[tuple[str, str]]
) -> None:
    client = await mesh.user()
    quote = await quote_for(client, *items)
    most = int(quote["total"]) + 10_000
    assert await reason_of(accept(client, quote["name"])) == "INSUFFICIENT_ALLOWANCE"
    await approve(client, quote, most - 1)
    assert await reason_of(accept(client, quote["name"])) == "INSUFFICIENT_ALLOWANCE"
    await approve(client, quote, most)
    everything = int((await get(client, f"ledgers/icp/accounts/{client.principal}"))["balance"])
    away = {"to": {"owner": somebody()}, "amount": str(everything - most)}
    await post(client, "/v1/ledgers/icp:transfer", **away)
    assert await reason_of(accept(client, quote["name"])) == "INSUFFICIENT_FUNDS"
    async with mesh.superuser() as database:
        assert await database.fetchval(STORED, client.principal) == 0
    assert (await get(client, quote["name"]))["state"] == "QUOTE_STATE_OPEN"
    await client.close()


async def test_an_approval_that_goes_after_the_order_ends_it_uncharged(
    mesh: Installation, alice: Client, admin: Client
) -> None:
    """What was seen when the order was accepted may be gone when its turn comes."""

    def one_at_a_time(config: dict[str, Any]) -> None:
        config["limits"]["maxConcurrentPipelines"] = 1

    async with configured(mesh, admin, one_at_a_time):
        await ordered(alice, spec({"newToken": token(displayName=f"{SLOW_PREFIX}token")}))
        launch = await ordered(alice, spec({"newToken": token()}, [lock(alice.principal)]))
        quote = await get(alice, launch["quote"])
        await approve(alice, quote, 0)
        found = await ended(alice, launch["name"])
    assert (found["state"], found["error"]["reason"]) == (
        "LAUNCH_STATE_FAILED",
        "INSUFFICIENT_ALLOWANCE",
    )
    assert found["payment"] == ""
    assert (await get(alice, launch["quote"]))["state"] == "QUOTE_STATE_OPEN"


async def test_a_user_has_so_many_open_quotes(mesh: Installation, bob: Client) -> None:
    most = kept("invoice_storage", "unused_quotes").per_user
    async with mesh.superuser() as database:
        await database.execute(QUOTES, bob.principal, most - 1)
    order = {"requestId": str(uuid4()), "items": [{"step": "x", "service": TOKEN_ORDER[1]}]}
    last = (await bob.rest("POST", "/v1/quotes", order)).body
    assert await reason_of(quote_for(bob, TOKEN_ORDER)) == "TOO_MANY_QUOTES"
    assert (await bob.rest("POST", "/v1/quotes", order)).body == last


async def test_a_user_has_so_many_lists_that_no_distribution_uses(
    mesh: Installation, bob: Client
) -> None:
    most = kept("distribution_deployer", "unused_recipient_lists").per_user
    async with mesh.superuser() as database:
        await database.execute(LISTS, bob.principal, most, 0)
    assert await reason_of(post(bob, "/v1/recipientLists", categoryId=1)) == "TOO_MANY_LISTS"


async def test_a_user_has_so_many_recipients_that_no_distribution_uses(
    mesh: Installation, bob: Client
) -> None:
    """However many lists they are on."""
    most = kept("distribution_deployer", "unused_recipients").per_user
    async with mesh.superuser() as database:
        await database.execute(LISTS, bob.principal, 2, most // 2 - 1)
    name = (await post(bob, "/v1/recipientLists", categoryId=1))["name"]
    three = [{"principal": somebody(), "amount": "1"} for _ in range(3)]
    path = f"/v1/{name}:addRecipients"
    assert await reason_of(post(bob, path, page=0, recipients=three)) == "TOO_MANY_RECIPIENTS"
    assert (await get(bob, name)).get("recipientCount", 0) == 0
    first = {"requestId": str(uuid4()), "page": 0, "recipients": three[:2]}
    grown = await post(bob, path, **first)
    assert grown["recipientCount"] == 2
    assert await post(bob, path, **first) == grown


async def test_the_configuration_tells_what_is_forgotten_when_and_does_not_change_it(
    mesh: Installation, admin: Client
) -> None:
    config = await get(admin, "config")
    told = {(one["service"], one["what"]): one for one in config["retention"]}
    assert set(told) == {
        (service.mesh_name, what)
        for service in loader.load("test").services.values()
        for what in service.retention
    }
    quotes = told["invoice_storage", "unused_quotes"]
    assert (quotes["period"], int(quotes["perUser"])) == ("2592000s", 100)

    def longer(changed: dict[str, Any]) -> None:
        changed["retention"][0]["period"] = "1s"

    async with configured(mesh, admin, longer):
        assert (await get(admin, "config"))["retention"] == config["retention"]


def kept(service: str, what: str) -> Retention:
    """What the contract says of something."""
    return loader.load("test").services[service].retention[what]
