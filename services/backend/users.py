"""icto.backend.v1.UserService."""

from typing_extensions import override

from icto.backend.v1 import users_pb2 as pb
from icto.backend.v1.users_handlers import UserServiceHandlers
from services.backend import domain, store
from services.backend.messages import profile_message
from services.kit.serving import Call, Kit


class UserService(UserServiceHandlers[Call]):
    """Profiles."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database

    @override
    async def GetMyProfile(self, request: pb.GetMyProfileRequest, call: Call) -> pb.Profile:
        """The caller's profile; an empty one before their first write."""
        del request
        profile = await store.get_profile(self._database, call.principal)
        return profile_message(profile or domain.Profile(call.principal))

    @override
    async def UpdateMyProfile(self, request: pb.UpdateMyProfileRequest, call: Call) -> pb.Profile:
        """Changes the caller's profile."""
        present = {
            name: getattr(request.profile, name)
            for name in ("display_name", "email", "website")
            if request.profile.HasField(name)
        }
        changes = domain.profile_changes(present, list(request.update_mask.paths))
        async with call.transaction() as tx:
            profile = await store.update_profile(tx, call.principal, changes)
            response = profile_message(profile)
            return tx.answer(response, subject=response.name)
