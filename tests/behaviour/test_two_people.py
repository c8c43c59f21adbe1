"""What takes two people, and that one who may give roles is not two."""

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final

from mesh.cli.client import Client
from mesh.supervisor import bootstrap_digest, new_bootstrap_key
from tests.support import launches
from tests.support.administration import administrator
from tests.support.installation import Installation
from tests.support.money import get, post, reason_of, until_followed
from tests.support.roles import in_role

WHY: Final = "a test"
DAY: Final = timedelta(hours=24)
_MINUTES: Final = timedelta(minutes=5)


@contextlib.asynccontextmanager
async def stopped(mesh: Installation, chief: Client) -> AsyncIterator[None]:
    """The platform is stopped in this block, by an old hand; two others end it."""
    changed = await post(chief, "/v1/config:stop", justification=WHY)
    await until_followed(mesh, int(changed["revision"]))
    try:
        yield
    finally:
        async with administrator(mesh) as one, administrator(mesh) as two:
            for who in (one, two):
                await release(who)
            config = await get(one, "config")
            assert not config["emergencyStop"]
            await until_followed(mesh, int(config["revision"]))
            changed = await post(one, "/v1/config:setMaintenance", enabled=False, justification=WHY)
        await until_followed(mesh, int(changed["revision"]))


async def release(who: Client) -> dict[str, Any]:
    return await post(who, "/v1/config:release", justification=WHY)


async def another(mesh: Installation) -> Client:
    return await mesh.user(funds=0)


async def granted(giver: Client, taker: Client, role: str = "ADMIN") -> Client:
    """Somebody who got a role just now."""
    path = f"/v1/principals/{taker.principal}:grantRole"
    await post(giver, path, role=f"ROLE_{role}", justification=WHY)
    await taker.sign_in()
    return taker


async def bootstrapped(mesh: Installation, client: Client) -> Client:
    """Somebody who redeemed a bootstrap key just now."""
    key = new_bootstrap_key()
    async with mesh.operator() as operator:
        await operator.issue_bootstrap_key(bootstrap_digest(key), only_first=False)
    await post(client, "/v1/bootstrapKeys:redeem", bootstrapKey=key)
    await client.sign_in()
    return client


def told_since_when(answer: dict[str, Any]) -> None:
    assert not answer["released"]
    assert answer["explanation"]
    since = datetime.fromisoformat(answer["countsFrom"])
    expected = datetime.now(since.tzinfo) + DAY
    assert expected - _MINUTES < since <= expected


async def test_one_person_is_not_two_however_many_keys_they_have(mesh: Installation) -> None:
    """By GrantRole or a bootstrap key, before or after the stop, through others or not."""
    async with administrator(mesh) as chief, contextlib.AsyncExitStack() as stack:
        hands = [await stack.enter_async_context(closing(await another(mesh))) for _ in range(6)]
        first, second, third, fourth, fifth, sixth = hands
        before = [
            await granted(chief, first),
            await bootstrapped(mesh, second),
            await granted(await granted(chief, third, "SUPER_ADMIN"), fourth),
            third,
        ]
        async with stopped(mesh, chief):
            after = [await granted(chief, fifth), await bootstrapped(mesh, sixth)]
            for hand in (*before, *after):
                assert not (await release(hand))["released"]
                assert not (await release(chief))["released"]
                told_since_when(await release(hand))
            assert (await get(chief, "config"))["emergencyStop"]


async def test_who_lost_their_key_is_let_in_again_and_counts_a_day_later(
    mesh: Installation,
) -> None:
    async with (
        administrator(mesh) as chief,
        closing(await another(mesh)) as back,
        stopped(mesh, chief),
    ):
        await bootstrapped(mesh, back)
        assert back.roles == ["SUPER_ADMIN"]
        await post(back, "/v1/config:stop", justification=WHY)
        told_since_when(await release(back))
        await in_role(mesh, back.principal, "SUPER_ADMIN", ago="23 hours 59 minutes")
        assert not (await release(back))["released"]
        assert not (await release(chief))["released"]
        await in_role(mesh, back.principal, "SUPER_ADMIN", ago="24 hours 1 second")
        assert (await release(back))["released"]
        await post(chief, "/v1/config:stop", justification=WHY)


async def test_whose_role_another_gave_before_the_stop_counts(mesh: Installation) -> None:
    async with (
        administrator(mesh) as chief,
        administrator(mesh) as other,
        closing(await another(mesh)) as new,
    ):
        await granted(other, new)
        async with stopped(mesh, chief):
            assert not (await release(new))["released"]
            answer = await release(other)
            assert not answer["released"], "the new one's role is from them"
            assert (await release(chief))["released"]
            await post(chief, "/v1/config:stop", justification=WHY)


async def test_who_may_not_release_it_any_more_does_not_count(mesh: Installation) -> None:
    """Roles are read when it is decided, not when somebody asked."""
    async with administrator(mesh) as chief, closing(await another(mesh)) as gone:
        await in_role(mesh, gone.principal, "ADMIN", by=chief.principal)
        await gone.sign_in()
        async with stopped(mesh, chief):
            assert not (await release(gone))["released"]
            path = f"/v1/principals/{gone.principal}"
            await post(chief, f"{path}:setStatus", status="USER_STATUS_BANNED", justification=WHY)
            assert not (await release(chief))["released"]
            await post(chief, f"{path}:setStatus", status="USER_STATUS_ACTIVE", justification=WHY)
            await post(chief, f"{path}:revokeRole", role="ROLE_ADMIN", justification=WHY)
            assert not (await release(chief))["released"]


async def unlock(who: Client, lock: str) -> str:
    return await reason_of(post(who, f"/v1/{lock}:emergencyUnlock", justification=WHY))


async def test_whoever_benefits_from_a_lock_does_not_unlock_it_alone(
    mesh: Installation, alice: Client
) -> None:
    """Nor by another key of theirs."""
    await in_role(mesh, alice.principal, "SUPER_ADMIN")
    await alice.sign_in()
    wanted = launches.spec(
        {"newToken": launches.token()},
        [launches.lock(alice.principal, 5_000 + n, emergencyUnlock=True) for n in range(2)],
        [],
    )
    locks = (await launches.launched(alice, wanted))["locks"]
    async with administrator(mesh) as other, closing(await another(mesh)) as hand:
        await granted(alice, hand)
        for who in (alice, hand, await bootstrapped(mesh, hand)):
            for lock in locks:
                assert await unlock(who, lock) == "LOCK_BENEFICIARY"
        assert await unlock(other, locks[0]) == ""
        await in_role(mesh, hand.principal, "ADMIN", by=alice.principal)
        assert await unlock(hand, locks[1]) == ""


async def test_a_new_administrator_unlocks_what_is_none_of_administrators(
    mesh: Installation, alice: Client
) -> None:
    wanted = launches.spec(
        {"newToken": launches.token()},
        [launches.lock(alice.principal, 5_000, emergencyUnlock=True)],
        [],
    )
    (lock,) = (await launches.launched(alice, wanted))["locks"]
    async with closing(await another(mesh)) as hand:
        await bootstrapped(mesh, hand)
        assert await unlock(hand, lock) == ""


@contextlib.asynccontextmanager
async def closing(client: Client) -> AsyncIterator[Client]:
    yield client
    await client.close()
