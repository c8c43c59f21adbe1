"""Launches as tests order them, over REST."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from contract import principal
from mesh.cli.client import Client
from tests.support.installation import new_symbol, until

SUPPLY: Final = 1_000_000_000
FEE: Final = 10
OPEN: Final = frozenset({"LAUNCH_STATE_PENDING", "LAUNCH_STATE_IN_PROGRESS"})
Spec = Mapping[str, Any]


def token(**changes: Any) -> dict[str, Any]:
    """A new token."""
    standard = {
        "displayName": "Launched token",
        "symbol": new_symbol(),
        "totalSupply": str(SUPPLY),
        "transferFee": str(FEE),
    }
    return standard | changes


def lock(who: str, amount: int = 100_000, **changes: Any) -> dict[str, Any]:
    """A lock for one beneficiary, linear over a year."""
    standard = {
        "displayName": "Team",
        "totalAmount": str(amount),
        "schedule": {"linear": {"duration": "31536000s"}},
        "beneficiaries": [{"principal": who, "amount": str(amount)}],
    }
    return standard | changes


def distribution(who: str, amount: int = 50_000, **changes: Any) -> dict[str, Any]:
    """An airdrop to one recipient."""
    standard = {
        "displayName": "Airdrop",
        "campaignType": "CAMPAIGN_TYPE_AIRDROP",
        "totalAmount": str(amount),
        "categories": [
            {
                "id": 1,
                "displayName": "Early users",
                "schedule": {"instant": {}},
                "whitelist": {"recipients": [{"principal": who, "amount": str(amount)}]},
            }
        ],
    }
    return standard | changes


def spec(
    source: Mapping[str, Any], locks: Sequence[Spec] = (), distributions: Sequence[Spec] = ()
) -> dict[str, Any]:
    """What shall be launched; `source` is a `newToken`, a `token` or an earlier `launch`."""
    return {
        "displayName": "A launch",
        **source,
        "locks": list(locks),
        "distributions": list(distributions),
    }


async def validated(client: Client, launch: Spec) -> dict[str, Any]:
    """What the platform says about a launch beforehand."""
    answer = await client.rest("POST", "/v1/launches:validate", {"spec": launch})
    found: dict[str, Any] = answer.body
    return found


async def quoted(client: Client, items: Sequence[Spec]) -> dict[str, Any]:
    """A quote for the items, approved on the ledger, with room for others that wait."""
    wanted = {"requestId": str(uuid4()), "items": list(items)}
    quote: dict[str, Any] = (await client.rest("POST", "/v1/quotes", wanted)).body
    approval = {
        "requestId": str(uuid4()),
        "spender": quote["spender"],
        "amount": str(10 * int(quote["approvalAmount"])),
    }
    await client.rest("POST", f"/v1/{quote['ledger']}:approve", approval)
    return quote


async def ordered(client: Client, launch: Spec, **more: Any) -> dict[str, Any]:
    """A launch that is paid for and accepted."""
    items = (await validated(client, launch))["items"]
    quote = await quoted(client, items)
    body = {"requestId": str(uuid4()), "spec": launch, "quote": quote["name"], **more}
    accepted: dict[str, Any] = (await client.rest("POST", "/v1/launches", body)).body
    return accepted


async def ended(client: Client, name: str, seconds: float = 30.0) -> dict[str, Any]:
    """A launch once it has ended."""

    async def over() -> dict[str, Any] | None:
        body: dict[str, Any] = (await client.rest("GET", f"/v1/{name}")).body
        return body if body["state"] not in OPEN else None

    found: dict[str, Any] = await until(over, seconds)
    return found


async def launched(client: Client, launch: Spec, **more: Any) -> dict[str, Any]:
    """A launch that is ordered, once it has ended."""
    return await ended(client, (await ordered(client, launch, **more))["name"])


async def balance(client: Client, ledger: str, account: str | Mapping[str, Any]) -> int:
    """What an account holds."""
    if not isinstance(account, str):
        subaccount = base64.b64decode(account["subaccount"])
        account = principal.encode_account(account["owner"], subaccount)
    found = await client.rest("GET", f"/v1/{ledger}/accounts/{account}")
    return int(found.body["balance"])


async def paid(client: Client, operation: Mapping[str, Any]) -> dict[str, Any]:
    """The payment of a launch or a deployment that has ended, once nothing of it is open."""

    async def settled() -> dict[str, Any] | None:
        found: dict[str, Any] = (await client.rest("GET", f"/v1/{operation['payment']}")).body
        refund = found.get("refund")
        state = (await client.rest("GET", f"/v1/{refund}")).body["state"] if refund else ""
        open_refund = refund and state != "REFUND_STATE_COMPLETED"
        return None if open_refund else found

    found: dict[str, Any] = await until(settled)
    return found


def steps(launch: Mapping[str, Any]) -> dict[str, str]:
    """State of each step, without the words that all states begin with."""
    return {s["name"]: s["state"].removeprefix("STEP_STATE_") for s in launch["steps"]}


def ledger_of(launch: Mapping[str, Any]) -> str:
    """The ledger of a launch's token."""
    return str(launch["token"]).replace("tokens/", "ledgers/")
