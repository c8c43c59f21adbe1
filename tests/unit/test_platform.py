"""What the configuration forbids, for every method of the contract (F-16), and who may call it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from contract import loader, principal, wire
from contract.environment import Environment
from contract.errors import Code, Error
from contract.identities import OPERATOR
from contract.method import Kind, Method
from icto.config.v1 import config_pb2
from observability.metrics import Metrics
from services.backend import config_rules
from services.kit.replica.platform import Platform
from services.kit.serving import authorization, identity
from services.kit.serving.call import Call, OwnershipUncheckedError
from services.kit.serving.identity import Identity

CONTRACT = loader.load(Environment.TEST)
METHODS = list(CONTRACT.methods())
MUTATIONS = [method for method in METHODS if method.mutates]
FEATURES = [field.name for field in config_pb2.FeatureFlags.DESCRIPTOR.fields]
FEATURED = {method.feature for method in METHODS if method.feature}
by_name = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.full_name)


class _NoClients:
    """Nothing is asked of another service here."""

    def stub(self, _: Any) -> None:
        return None


def platform(**changes: Any) -> Platform:
    made = Platform(_NoClients(), Metrics())  # type: ignore[arg-type]
    config = config_rules.initial()
    for name, value in changes.items():
        if name in FEATURES:
            setattr(config.features, name, value)
        else:
            setattr(config, name, value)
    made._take(config)
    return made


def refusal(made: Platform, method: Method) -> str:
    try:
        made.check(method)
    except Error as error:
        return error.reason
    return ""


@by_name
def test_a_stop_blocks_every_change_that_is_not_meant_for_it(method: Method) -> None:
    stopped = platform(emergency_stop=True, maintenance_mode=True)
    blocked = method.mutates and not method.allowed_in_emergency_stop
    assert refusal(stopped, method) == ("EMERGENCY_STOP" if blocked else "")
    assert not stopped.running


@by_name
def test_maintenance_blocks_what_users_change(method: Method) -> None:
    open_ = method.allowed_in_maintenance or method.allowed_in_emergency_stop
    blocked = method.mutates and not open_
    assert refusal(platform(maintenance_mode=True), method) == ("MAINTENANCE" if blocked else "")
    assert platform(maintenance_mode=True).running, "what was begun goes on"


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_that_is_off_blocks_its_methods_and_no_other(feature: str) -> None:
    off = platform(**{feature: False})
    blocked = {m.full_name for m in METHODS if refusal(off, m) == "FEATURE_DISABLED"}
    assert blocked == {m.full_name for m in METHODS if m.feature == feature and m.mutates}


@by_name
def test_everything_is_open_when_nothing_is_forbidden(method: Method) -> None:
    assert not refusal(platform(), method)


@by_name
def test_who_does_not_know_the_configuration_changes_nothing(method: Method) -> None:
    """What is not known may be a stop."""
    unknown = Platform(_NoClients(), Metrics())  # type: ignore[arg-type]
    blocked = method.mutates and not method.allowed_in_emergency_stop
    assert refusal(unknown, method) == ("CONFIGURATION_UNKNOWN" if blocked else "")
    assert not unknown.running


def test_an_older_configuration_does_not_replace_a_newer_one() -> None:
    made = platform(revision=7, emergency_stop=True)
    made._take(config_rules.initial())
    assert made.config.emergency_stop


def test_a_stop_leaves_the_ways_out_of_it_open() -> None:
    """F-56: no function cleared it."""
    open_ = {m.name for m in MUTATIONS if m.allowed_in_emergency_stop}
    assert {"StopPlatform", "ReleasePlatform", "SignIn", "CreateChallenge"} <= open_
    spends = {"DeployToken", "Transfer", "TransferFrom", "Approve", "Charge", "UpdateConfig"}
    assert not spends & open_


# Authorization inside the service.


def outside(*roles: str, signed_in: bool = True, suspended: bool = False) -> Identity:
    who = "user" if signed_in else principal.ANONYMOUS
    return Identity(wire.EDGE, who, frozenset(roles), suspended)


def refused(method: Method, who: Identity) -> tuple[Code, str] | None:
    try:
        authorization.check(method, who)
    except Error as error:
        return error.code, error.reason
    return None


@by_name
def test_only_the_services_that_the_contract_names_call_a_method(method: Method) -> None:
    for mesh_name in CONTRACT.identities:
        who = Identity(mesh_name, principal.of_service(mesh_name), frozenset())
        welcome = method.audience.admits_service(mesh_name)
        assert refused(method, who) == (
            None if welcome else (Code.PERMISSION_DENIED, "ACCESS_DENIED")
        )


@by_name
def test_a_caller_whom_nobody_vouches_for_is_nobody(method: Method) -> None:
    nobody = identity.read({wire.HEADER_PRINCIPAL: "x", wire.HEADER_ROLES: "SUPER_ADMIN"}, method)
    expected = (Code.UNAUTHENTICATED, "CALLER_UNKNOWN")
    assert refused(method, nobody) == expected


@by_name
def test_a_role_opens_what_its_permission_covers(method: Method) -> None:
    audience = method.audience
    plain = audience.public or audience.user or bool(audience.owner)
    for role in ("SUPER_ADMIN", "ADMIN", "MODERATOR", "SUPPORT", "READ_ONLY"):
        welcome = plain or role in audience.roles
        denied = (Code.PERMISSION_DENIED, "ACCESS_DENIED")
        assert refused(method, outside(role)) == (None if welcome else denied)


@by_name
def test_nobody_who_is_not_signed_in_does_more_than_the_public_may(method: Method) -> None:
    told = refused(method, Identity(wire.EDGE, principal.ANONYMOUS, frozenset()))
    if method.audience.public:
        assert told is None
    elif method.audience.signed_in:
        assert told == (Code.UNAUTHENTICATED, "TOKEN_MISSING")
    else:
        assert told == (Code.PERMISSION_DENIED, "ACCESS_DENIED"), "of services, whoever asks"


@by_name
def test_a_suspended_user_does_only_what_they_may(method: Method) -> None:
    verdict = refused(method, outside("SUPER_ADMIN", suspended=True))
    if not method.allowed_when_suspended:
        assert verdict == (Code.PERMISSION_DENIED, "USER_SUSPENDED")
    else:
        assert verdict == refused(method, outside("SUPER_ADMIN"))


@by_name
def test_a_service_acts_for_a_user_only_where_the_contract_says_so(method: Method) -> None:
    """F-20: identity as an argument."""
    metadata: Mapping[str, str] = {
        wire.HEADER_CALLER: "backend",
        wire.HEADER_ON_BEHALF_OF: "victim",
        wire.HEADER_ROLES: "SUPER_ADMIN",
    }
    who = identity.read(metadata, method)
    own = principal.of_service("backend")
    assert who.principal == ("victim" if method.on_behalf_of else own)
    assert not who.roles
    from_outside = {**metadata, wire.HEADER_CALLER: wire.EDGE}
    assert identity.read(from_outside, method).principal != "victim"


def test_the_operator_is_no_service_among_others() -> None:
    every = [m for m in METHODS if "*" in m.audience.services]
    assert every
    for method in every:
        assert method.audience.admits_service(OPERATOR) is (OPERATOR in method.audience.services)


# Ownership.


class Row:
    """Somebody's."""

    def __init__(self, owner: str) -> None:
        self.owner = owner


OWNED = [m for m in METHODS if m.audience.owner]


def call(method: Method, who: Identity) -> Call:
    return Call(method, who, None, None, None, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", OWNED, ids=lambda m: m.full_name)
def test_a_row_is_its_owners_and_whose_permission_says_so(method: Method) -> None:
    """F-17: listings open to whoever asks. Missing and foreign rows are told alike."""
    owner = method.audience.owner
    mine, others = Row("user"), Row("somebody else")
    assert call(method, outside()).owned(mine, owner) is mine
    for row in (others, None):
        with pytest.raises(Error) as caught:
            call(method, outside()).owned(row, owner)
        assert caught.value.code is Code.NOT_FOUND
    for role in method.audience.roles:
        assert call(method, outside(role)).owned(others, owner) is others


@pytest.mark.parametrize("method", OWNED, ids=lambda m: m.full_name)
def test_a_handler_that_forgets_the_owner_fails_closed(method: Method) -> None:
    forgetful = call(method, outside())
    with pytest.raises(OwnershipUncheckedError):
        forgetful.verify_ownership()
    with pytest.raises(OwnershipUncheckedError):
        forgetful.owned(Row("user"), "something else")
    forgetful.owned(Row("user"), method.audience.owner)
    forgetful.verify_ownership()


def test_changes_are_told_from_reads() -> None:
    """What is no mutation is blocked by nothing here: so a mutation must not pass for a read."""
    for method in METHODS:
        if method.has_request_id and method.kind is Kind.UNARY:
            assert method.mutates, method.full_name


async def test_a_stream_that_is_silent_is_given_up_for_another() -> None:
    """A frozen replica of the backend keeps no stop from those who follow it."""
    made = Platform(_Frozen(), Metrics(), heartbeat=0.02)  # type: ignore[arg-type]
    following = asyncio.create_task(made.follow())
    try:
        async with asyncio.timeout(10):
            while not made._config or not made.config.emergency_stop:
                await asyncio.sleep(0.01)
    finally:
        following.cancel()
    assert not made.running


async def test_whoever_calls_right_after_the_start_waits_a_moment_for_the_configuration() -> None:
    made = Platform(_NoClients(), Metrics())  # type: ignore[arg-type]
    waiting = asyncio.create_task(made.heard())
    await asyncio.sleep(0)
    assert not waiting.done()
    made._take(config_rules.initial())
    await waiting
    await made.heard()


class _Frozen:
    """The first stream tells of a configuration and is silent then; the next tells of a stop."""

    def __init__(self) -> None:
        self._streams = 0

    def stub(self, _: Any) -> "_Frozen":
        return self

    async def WatchConfig(  # noqa: N802  # the stub's name
        self, _: Any
    ) -> AsyncIterator[config_pb2.SystemConfig]:
        self._streams += 1
        stopped = self._streams > 1
        yield config_pb2.SystemConfig(revision=self._streams, emergency_stop=stopped)
        await asyncio.Event().wait()
