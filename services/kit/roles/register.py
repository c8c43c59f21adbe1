"""The gateway's register of roles, for services that ask who stands behind somebody."""

from collections.abc import Iterable
from datetime import UTC

from contract.roles import role_name
from icto.identity.v1 import identity_pb2 as pb
from icto.identity.v1.identity_pb2_grpc import IdentityServiceStub
from services.kit.calling.client import Clients
from services.kit.roles.standing_rules import Grant, People


class Register:
    """Asks the gateway."""

    def __init__(self, clients: Clients) -> None:
        self._stub = clients.stub(IdentityServiceStub)

    async def people(self, principals: Iterable[str]) -> People:
        """What is known of people.

        Raises:
            Error: the gateway does not answer.
        """
        request = pb.GetRoleGrantsRequest(principals=sorted(set(principals)))
        answer = await self._stub.GetRoleGrants(request)
        return People(tuple(map(_grant, answer.grants)), frozenset(answer.inactive))


def _grant(message: pb.RoleGrant) -> Grant:
    role = role_name(message.role)
    return Grant(
        message.principal, role, message.granted_by, message.grant_time.ToDatetime(tzinfo=UTC)
    )
