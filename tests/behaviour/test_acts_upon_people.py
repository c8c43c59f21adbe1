"""Who may act upon whom: ban, restore, give and take roles (tests/authorization.toml, `upon`)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

import pytest

from contract import loader, principal
from contract.method import Method
from mesh.cli.client import CallError, Client
from tests.support import authorization
from tests.support.authorization import OK, PEOPLE
from tests.support.installation import Installation
from tests.support.money import post
from tests.support.roles import in_role
from tests.support.tokens import somebody

WHY: Final = "a test"
MANAGEMENT: Final = "aaaaa-aa"
UPON: Final = authorization.upon()
METHODS: Final = {
    method.full_name: method
    for method in loader.load("test").methods()
    if any("principals/*" in http.path for http in method.http)
}
BODIES: Final[dict[str, dict[str, Any]]] = {
    "SetUserStatus": {"status": "USER_STATUS_SUSPENDED"},
    "GrantRole": {"role": "ROLE_READ_ONLY"},
    "RevokeRole": {"role": "ROLE_SUPPORT"},
}


@contextlib.asynccontextmanager
async def caller(mesh: Installation, role: str) -> AsyncIterator[Client]:
    """Somebody signed in who has had a role for long."""
    client = await mesh.user(funds=0)
    try:
        if role in authorization.ROLES:
            await in_role(mesh, client.principal, role)
            await client.sign_in()
        yield client
    finally:
        await client.close()


async def person(mesh: Installation, kind: str) -> str:
    """Somebody who is acted upon."""
    who = somebody()
    if kind != "user":
        await in_role(mesh, who, kind)
    return who


async def acted(client: Client, method: Method, who: str, **more: Any) -> str:
    """Acts upon somebody; the status and the reason of the refusal, or `ok`."""
    path = method.http[0].path.replace("{name=principals/*}", f"principals/{who}")
    try:
        await post(client, path, justification=WHY, **BODIES[method.name] | more)
    except CallError as error:
        return f"{error.status} {error.reason}"
    return OK


def test_every_method_that_acts_upon_a_person_has_its_table() -> None:
    assert UPON.keys() == METHODS.keys()
    for name, lines in UPON.items():
        assert lines.keys() == METHODS[name].audience.roles, name


@pytest.mark.parametrize("name", METHODS)
async def test_nobody_acts_upon_a_person_who_may_do_more(mesh: Installation, name: str) -> None:
    """A moderator banned administrators and the super-admin, who then could not undo it."""
    seen: dict[str, dict[str, str]] = {}
    for role in UPON[name]:
        async with caller(mesh, role) as client:
            people = await asyncio.gather(*(person(mesh, kind) for kind in PEOPLE))
            told = [await acted(client, METHODS[name], who) for who in people]
            seen[role] = dict(zip(PEOPLE, (t.partition(" ")[0] for t in told), strict=True))
            assert {t for t in told if t != OK} <= {"403 TARGET_HOLDS_MORE"}
    assert seen == UPON[name]


async def test_what_the_actor_holds_is_read_when_they_act_and_not_from_their_token(
    mesh: Installation,
) -> None:
    """A role that was taken away gives no power over those who hold it, however fresh the token."""
    async with caller(mesh, "SUPER_ADMIN") as chief, caller(mesh, "ADMIN") as lost:
        revoke, ban = (method_named(name) for name in ("RevokeRole", "SetUserStatus"))
        assert await acted(chief, revoke, lost.principal, role="ROLE_ADMIN") == OK
        admin = await person(mesh, "ADMIN")
        assert await acted(lost, ban, admin) == "403 TARGET_HOLDS_MORE"


async def test_a_role_given_meanwhile_protects_at_once(mesh: Installation) -> None:
    """Grant and ban at the same moment end as one after the other."""
    async with caller(mesh, "SUPER_ADMIN") as chief, caller(mesh, "MODERATOR") as moderator:
        grant, ban = (method_named(name) for name in ("GrantRole", "SetUserStatus"))
        for _ in range(5):
            who = somebody()
            assert await acted(chief, grant, who, role="ROLE_ADMIN") == OK
            assert await acted(moderator, ban, who) == "403 TARGET_HOLDS_MORE"


@pytest.mark.parametrize("name", ["GrantRole", "SetUserStatus"])
@pytest.mark.parametrize("nobody", [principal.ANONYMOUS, MANAGEMENT])
async def test_nothing_is_given_to_nobody(mesh: Installation, name: str, nobody: str) -> None:
    """A role of the anonymous principal would be everybody's."""
    async with caller(mesh, "SUPER_ADMIN") as chief:
        assert await acted(chief, method_named(name), nobody) == "400 INVALID_PRINCIPAL"


@pytest.mark.parametrize("nobody", [principal.ANONYMOUS, MANAGEMENT])
async def test_a_role_that_nobody_has_since_before_can_be_taken_away(
    mesh: Installation, nobody: str
) -> None:
    """Installations from before the rule have such rows."""
    async with caller(mesh, "SUPER_ADMIN") as chief:
        async with mesh.superuser() as database:
            await database.execute("DELETE FROM gateway.roles WHERE principal = $1", nobody)
        await in_role(mesh, nobody, "SUPPORT")
        body = {"requestId": str(uuid4()), "role": "ROLE_SUPPORT", "justification": WHY}
        told = await chief.rest("POST", f"/v1/principals/{nobody}:revokeRole", body)
        assert told.body["roles"] == []


def method_named(name: str) -> Method:
    return next(method for method in METHODS.values() if method.name == name)
