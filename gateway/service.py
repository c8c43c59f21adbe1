"""Handlers of the gateway service: sign-in and roles; health and reflection beside them."""

import asyncio
import base64
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typing_extensions import override

from contract import ids, principal, sign_in
from contract.errors import Code, Error, invalid
from contract.roles import permissions_of, role_name
from contract.tokens import cookie_audience
from gateway import domain, store
from gateway.access_log import LogsService
from gateway.domain import SigningKey
from gateway.health import Health
from gateway.reflection import ServerReflection
from icto.events.v1 import events_pb2 as events
from icto.identity.v1 import identity_pb2 as pb
from icto.identity.v1.identity_handlers import IdentityServiceHandlers, identity_service
from icto.policy.v1 import policy_pb2 as policy
from services.kit import settings
from services.kit.serving import Call, Effect, Kit, Serving

log = logging.getLogger(__name__)

_KEYS_SECONDS: Final = 5.0


@dataclass(frozen=True)
class GatewaySettings:
    """What the gateway needs beside the kit's settings."""

    audience: str = ""
    """Name of this installation, where its operator chose one: challenges and tokens are good for
    it alone."""
    origins: str = ""
    """Where it is reached, separated by spaces: from there people sign in."""
    https: bool = False
    """Whether pages reach the edge by https."""


def compose(kit: Kit) -> Serving:
    """The service of its parts: ours, and standard ones whose protos are not ours."""
    identity, health = IdentityService(kit), Health(kit)
    logs, reflect = LogsService(kit), ServerReflection(kit).ServerReflectionInfo
    standard: dict[str, Callable[..., Any]] = {
        "/grpc.health.v1.Health/Check": health.Check,
        "/grpc.health.v1.Health/List": health.List,
        "/grpc.health.v1.Health/Watch": health.Watch,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": reflect,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": reflect,
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export": logs.Export,
    }
    return Serving({**identity_service(identity), **standard}, [identity.run])


class IdentityService(IdentityServiceHandlers[Call]):
    """icto.identity.v1.IdentityService."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._settings = settings.load(GatewaySettings, os.environ)
        self._origins = tuple(self._settings.origins.split())
        self._audience = self._settings.audience
        followed = [m.deadline_ceiling for m in kit.contract.methods() if m.takes_cookie]
        self._cookie_lifetime = domain.cookie_lifetime(max(followed, default=0.0))

    async def run(self) -> None:
        """Keeps signing keys fresh and drops challenges that nobody used."""
        while True:
            try:
                await self._rotate_keys()
                await store.forget_challenges(self._database)
            except Error as error:
                log.warning("key rotation waits: %s", error)
            await asyncio.sleep(_KEYS_SECONDS)

    @override
    async def CreateChallenge(
        self, request: pb.CreateChallengeRequest, call: Call
    ) -> pb.CreateChallengeResponse:
        """Hands out a challenge for a public key."""
        del call
        domain.check_key(request.public_key)
        domain.check_origin(request.origin, self._origins)
        user, audience = principal.of_public_key(request.public_key), await self._own_audience()
        challenge_id = ids.new_id(user)
        issued = await store.now(self._database)
        expires = issued + domain.CHALLENGE_LIFETIME
        message = sign_in.message(request.origin, user, challenge_id, audience, issued, expires)
        await store.add_challenge(self._database, challenge_id, request.public_key, message, issued)
        response = pb.CreateChallengeResponse(
            challenge_id=str(challenge_id), message=message, audience=audience, principal=user
        )
        response.issue_time.FromDatetime(issued)
        response.expire_time.FromDatetime(expires)
        return response

    @override
    async def SignIn(self, request: pb.SignInRequest, call: Call) -> pb.SignInResponse:
        """Takes a signed challenge and answers with an access token, for pages as a cookie, too."""
        domain.check_key(request.public_key)
        challenge_id = _challenge_id(request.challenge_id)
        message = await store.take_challenge(self._database, challenge_id, request.public_key)
        if message is None:
            raise domain.challenge_refused()
        domain.check_signature(request.public_key, request.signature, message)
        user = principal.of_public_key(request.public_key)
        roles = await store.roles(self._database, user)
        status = await store.status(self._database, user)
        issued, audience = await store.now(self._database), await self._own_audience()
        response = pb.SignInResponse(
            access_token=await self._token(user, roles, status, issued, audience),
            principal=user,
            roles=map(_role, roles),
        )
        response.expire_time.FromDatetime(issued + domain.TOKEN_LIFETIME)
        followed = await self._token(
            user,
            roles,
            status,
            issued,
            cookie_audience(audience),
            self._cookie_lifetime,
        )
        cookie = domain.session_cookie(followed, self._cookie_lifetime, https=self._settings.https)
        call.headers.append(("set-cookie", cookie))
        call.headers.append(("cache-control", "no-store"))
        return response

    async def _own_audience(self) -> str:
        """The audience of this installation, which never changes unless its operator names it."""
        if not self._audience:
            self._audience = await store.audience(self._database)
        return self._audience

    async def _token(
        self,
        user: str,
        roles: list[str],
        status: int,
        issued: datetime,
        audience: str,
        lifetime: timedelta = domain.TOKEN_LIFETIME,
    ) -> str:
        keys = await store.keys(self._database)
        if not keys:
            raise Error(
                Code.UNAVAILABLE, "NO_SIGNING_KEY", "Signing in is not ready yet; try again."
            )
        chosen = domain.signing_key(keys, issued)
        claims = domain.claims(user, roles, status, audience, issued, lifetime)
        return jwt.encode(claims, chosen.key, algorithm="EdDSA", headers={"kid": chosen.kid})

    @override
    async def GetJwks(self, request: pb.GetJwksRequest, call: Call) -> pb.GetJwksResponse:
        """Keys that tokens are verified with."""
        del request, call
        keys = await store.keys(self._database)
        return pb.GetJwksResponse(keys=map(_jwk, keys), audience=await self._own_audience())

    @override
    async def WhoAmI(self, request: pb.WhoAmIRequest, call: Call) -> pb.WhoAmIResponse:
        """Says who the caller is."""
        del request
        roles = map(_role, sorted(call.identity.roles))
        return pb.WhoAmIResponse(principal=call.principal, roles=roles)

    @override
    async def IssueBootstrapKey(
        self, request: pb.IssueBootstrapKeyRequest, call: Call
    ) -> pb.IssueBootstrapKeyResponse:
        """Makes a key work that whoever holds the run directory made."""
        async with call.transaction() as tx:
            issued = not (request.only_first and await store.is_bootstrapped(tx))
            if issued:
                await store.replace_bootstrap_key(tx, request.key_sha256)
            act = call.act(details={"issued": str(issued).lower()})
            response = pb.IssueBootstrapKeyResponse(issued=issued)
            return tx.answer(response, subject="bootstrapKeys", act=act)

    @override
    async def RedeemBootstrapKey(
        self, request: pb.RedeemBootstrapKeyRequest, call: Call
    ) -> pb.RedeemBootstrapKeyResponse:
        """Makes the caller super-admin, once per key (F-56)."""
        digest = hashlib.sha256(request.bootstrap_key.encode()).digest()
        async with call.transaction() as tx:
            if not await store.redeem(tx, digest, call.principal):
                raise Error(
                    Code.PERMISSION_DENIED,
                    "BOOTSTRAP_KEY_INVALID",
                    "The bootstrap key is wrong or was used. Whoever runs the platform can issue"
                    " another with 'icto bootstrap-key'.",
                )
            await store.grant(tx, call.principal, domain.SUPER_ADMIN, "bootstrap")
            act = call.act(new_value=domain.SUPER_ADMIN)
            roles = await store.roles(tx, call.principal)
            response = pb.RedeemBootstrapKeyResponse(roles=map(_role, roles))
            return tx.answer(response, subject=_subject(call.principal), act=act)

    @override
    async def GrantRole(self, request: pb.GrantRoleRequest, call: Call) -> pb.GrantRoleResponse:
        """Gives a principal a role."""
        target, role = _person(request.name), role_name(request.role)
        async with call.transaction() as tx:
            before = await _may_act(tx, call, target, role)
            await store.grant(tx, target, role, call.principal)
            after = await store.roles(tx, target)
            act = _change(call, before, after, request.justification)
            response = pb.GrantRoleResponse(roles=map(_role, after))
            return tx.answer(response, subject=request.name, act=act)

    @override
    async def RevokeRole(self, request: pb.RevokeRoleRequest, call: Call) -> pb.RevokeRoleResponse:
        """Takes a role from a principal."""
        target, role = _target(request.name), role_name(request.role)
        domain.check_revocation(call.principal, target, role)
        async with call.transaction() as tx:
            before = await _may_act(tx, call, target)
            await store.revoke(tx, target, role)
            after = await store.roles(tx, target)
            act = _change(call, before, after, request.justification)
            response = pb.RevokeRoleResponse(roles=map(_role, after))
            return tx.answer(response, subject=request.name, act=act)

    @override
    async def SetUserStatus(
        self, request: pb.SetUserStatusRequest, call: Call
    ) -> pb.SetUserStatusResponse:
        """Suspends, bans or restores a user."""
        target = _person(request.name)
        domain.check_suspension(call.principal, target)
        async with call.transaction() as tx:
            await _may_act(tx, call, target)
            before = await store.status(tx, target)
            await store.set_status(tx, target, request.status)
            act = call.act(
                severity=events.SEVERITY_WARNING,
                previous_value=_status_name(before),
                new_value=_status_name(request.status),
                justification=request.justification,
            )
            response = pb.SetUserStatusResponse(status=request.status)
            return tx.answer(response, subject=request.name, act=act)

    @override
    async def GetDenyList(
        self, request: pb.GetDenyListRequest, call: Call
    ) -> pb.GetDenyListResponse:
        """Principals that the edge must turn away, when the list is not the one already known."""
        del call
        denied = await store.denied(self._database, self._cookie_lifetime + domain.DENY_MARGIN)
        revision = hashlib.sha256("\n".join(denied).encode()).hexdigest()
        known = revision == request.known_revision
        return pb.GetDenyListResponse(revision=revision, principals=() if known else denied)

    @override
    async def GetRoleGrants(
        self, request: pb.GetRoleGrantsRequest, call: Call
    ) -> pb.GetRoleGrantsResponse:
        """Roles of people, and of those who gave them."""
        del call
        rows = await store.grants(self._database, request.principals)
        return pb.GetRoleGrantsResponse(
            grants=map(_grant, rows),
            inactive=await store.inactive(self._database, request.principals),
        )

    async def _rotate_keys(self) -> None:
        """Makes the next signing key when it is due, whichever replica sees it first."""
        now = await store.now(self._database)
        if domain.next_activation(await store.keys(self._database), now) is None:
            return
        async with self._database.transaction() as connection:
            await store.lock_keys(connection)
            activation = domain.next_activation(await store.keys(connection), now)
            if activation is not None:
                await store.add_key(connection, _new_key(activation))


async def _may_act(tx: Effect, call: Call, target: str, *given: str) -> list[str]:
    """The target's roles, when the caller may act upon them.

    The caller's roles are those of now, not those of the token: it may be five minutes old.

    Raises:
        Error: PERMISSION_DENIED, the target holds a permission that the caller lacks.
    """
    await store.lock_people(tx)
    own, theirs = await store.roles(tx, call.principal), await store.roles(tx, target)
    domain.check_upon(permissions_of(frozenset(own)), permissions_of(frozenset((*theirs, *given))))
    return theirs


def _change(call: Call, before: list[str], after: list[str], justification: str) -> events.Act:
    return call.act(
        severity=events.SEVERITY_WARNING,
        previous_value=" ".join(before),
        new_value=" ".join(after),
        justification=justification,
    )


def _new_key(activation: datetime) -> SigningKey:
    key = Ed25519PrivateKey.generate()
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    kid = activation.strftime("%Y%m%dT%H%M%SZ-") + os.urandom(4).hex()
    return SigningKey(kid, raw, activation, domain.retirement(activation))


def _jwk(key: SigningKey) -> pb.Jwk:
    x = base64.urlsafe_b64encode(key.public_bytes).decode().rstrip("=")
    return pb.Jwk(kty="OKP", crv="Ed25519", alg="EdDSA", use="sig", kid=key.kid, x=x)


def _role(name: str) -> "policy.Role.ValueType":
    return policy.Role.Value(f"ROLE_{name}")


def _grant(row: Any) -> pb.RoleGrant:
    message = pb.RoleGrant(
        principal=row["principal"], role=_role(row["role"]), granted_by=row["granted_by"]
    )
    message.grant_time.FromDatetime(row["grant_time"])
    return message


def _status_name(status: int) -> str:
    return pb.UserStatus.Name(status).removeprefix("USER_STATUS_")  # type: ignore[arg-type]


def _subject(user: str) -> str:
    return f"principals/{user}"


def _target(name: str) -> str:
    user = name.removeprefix("principals/")
    if _subject(user) != name or not principal.is_principal(user):
        raise invalid("name", "must have the form 'principals/<principal>'", "INVALID_NAME")
    return user


def _person(name: str) -> str:
    """A target who may be given something; what was given to nobody before can only be taken."""
    user = _target(name)
    if not principal.is_person(user):
        problem = "must name a principal that can sign in"
        raise invalid("name", problem, "INVALID_PRINCIPAL")
    return user


def _challenge_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise domain.challenge_refused() from None
