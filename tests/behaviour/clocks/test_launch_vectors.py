"""Claims of a launch at simulated times are what the vectors of the domain say."""

from datetime import datetime, timedelta
from typing import Any

from google.protobuf import json_format

from icto.backend.v1 import launches_pb2
from mesh.cli import document
from tests.support.clocks import travel
from tests.support.installation import Installation, new_symbol, until
from tests.support.launches import balance, launched, ledger_of
from tests.support.money import get, post

DAY = 86_400
T = 10**14


DOCUMENT = """
display_name: Vectors
new_token:
  display_name: Vector token
  symbol: {symbol}
  total_supply: 1_000_000_000_000_000
  transfer_fee: 10
locks:
  - display_name: Linear over a year
    total_amount: 100_000_000_000_000
    schedule: {{linear: {{duration: 31536000s}}}}
    beneficiaries: [{{principal: {me}, amount: 100_000_000_000_000}}]
  - display_name: A cliff after half a year
    total_amount: 100_000_000_000_000
    schedule:
      initial_unlock_basis_points: 500
      cliff:
        cliff_duration: 15552000s
        cliff_basis_points: 1_000
        vesting_duration: 31536000s
    beneficiaries: [{{principal: {me}, amount: 100_000_000_000_000}}]
distributions:
  - display_name: Three categories
    campaign_type: CAMPAIGN_TYPE_AIRDROP
    total_amount: 200_000_000_100_000
    categories:
      - id: 1
        display_name: At once
        schedule: {{instant: {{}}}}
        whitelist: {{recipients: [{{principal: {me}, amount: 100_000_000_000_000}}]}}
      - id: 2
        display_name: A tenth at once, then monthly
        schedule:
          initial_unlock_basis_points: 1_000
          linear: {{duration: 31536000s, frequency: {{interval: INTERVAL_MONTHLY}}}}
        whitelist: {{recipients: [{{principal: {me}, amount: 100_000_000_000_000}}]}}
      - id: 3
        display_name: In three steps
        schedule:
          stepped:
            steps:
              - {{offset: 2592000s, basis_points: 3_300}}
              - {{offset: 5184000s, basis_points: 3_300}}
              - {{offset: 7776000s, basis_points: 3_400}}
        whitelist: {{recipients: [{{principal: {me}, amount: 100_000}}]}}
"""


def written(me: str) -> dict[str, Any]:
    """A launch as somebody writes it in YAML, and as REST takes it."""
    text = DOCUMENT.format(me=me, symbol=new_symbol())
    said = document.read(text, launches_pb2.LaunchSpec(), "launch.yaml").message
    return json_format.MessageToDict(said)


async def test_claims_of_one_launch_at_simulated_times_match_the_vectors(
    mesh: Installation,
) -> None:
    """The vectors of domain section 5: one YAML document by REST, two locks, three categories."""
    creator = await mesh.user()
    me = creator.principal
    wanted = written(me)
    total = 2 * T + 100_000
    launch = await launched(creator, wanted)
    assert launch["state"] == "LAUNCH_STATE_SUCCEEDED", launch
    first, second = launch["locks"]
    started = {
        name: datetime.fromisoformat((await creator.rest("GET", f"/v1/{name}")).body["startTime"])
        for name in (first, second)
    }

    async def unlocked(name: str, seconds: float) -> int:
        moment = (started[name] + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        found = await creator.rest("GET", f"/v1/{name}:claimable?atTime={moment}")
        return int(found.body["unlockedAmount"])

    linear = {0: 0, 1: 3_170_979, 30 * DAY: 8_219_178_082_191, 182.5 * DAY: T // 2, 365 * DAY: T}
    assert {e: await unlocked(first, e) for e in linear} == linear
    stepped = {
        0: 5 * 10**12,
        180 * DAY - 1: 5 * 10**12,
        180 * DAY: 15 * 10**12,
        362.5 * DAY: 575 * 10**11,
        545 * DAY: T,
    }
    assert {e: await unlocked(second, e) for e in stepped} == stepped

    async def claimed(seconds: float) -> dict[int, int]:
        """What each category has paid once it was claimed at a simulated time."""
        await travel(mesh, timedelta(seconds=seconds))
        await post(creator, f"/v1/{airdrop}:claim")
        found = (await get(creator, f"{airdrop}:claimable"))["categories"]
        return {category["categoryId"]: int(category["claimed"]) for category in found}

    async def taken(name: str) -> int:
        """What a lock has paid once it was claimed now."""
        await post(creator, f"/v1/{name}:claim")
        return int((await get(creator, f"{name}:claimable"))["claimedAmount"])

    (airdrop,) = launch["distributions"]
    assert await claimed(60) == {1: T, 2: 10**13, 3: 0}
    assert await taken(second) == 5 * 10**12
    assert await claimed(45 * DAY) == {1: T, 2: 17_397_260_273_972, 3: 33_000}
    assert T * 45 // 365 < await taken(first) < T * 46 // 365
    assert await claimed(30 * DAY) == {1: T, 2: 24_794_520_547_945, 3: 66_000}
    assert await claimed(285 * DAY + 120) == {1: T, 2: 98_767_123_287_671, 3: 100_000}
    assert await claimed(5 * DAY) == {1: T, 2: T, 3: 100_000}
    assert await taken(first) == T
    await travel(mesh, timedelta(days=180))
    assert await taken(second) == T
    ledger, fees = ledger_of(launch), 10 * (5 + 2 + 2)
    remainder = 10 * T - (2 * T + total) - 3 * 10 - 10

    async def all_paid() -> bool:
        return await balance(creator, ledger, me) == remainder + total + 2 * T - fees

    await until(all_paid)
    await creator.close()
