"""May this caller call this method? Decided from the contract alone, a second time after Envoy.

Ownership of a row cannot be decided here: a method for owners passes, and `Call.owned` decides.
"""

from contract.errors import Code, Error
from contract.method import Audience, Method
from services.kit.serving.identity import Identity


def check(method: Method, identity: Identity) -> None:
    """Passes, or refuses.

    Raises:
        Error: UNAUTHENTICATED, nobody is signed in; PERMISSION_DENIED, the caller may not.
    """
    audience = method.audience
    if identity.suspended and not method.allowed_when_suspended:
        raise Error(Code.PERMISSION_DENIED, "USER_SUSPENDED", "This user is suspended.")
    if identity.is_service:
        if not audience.admits_service(identity.caller):
            raise _denied(f"Service {identity.caller!r} may not call this method.")
    elif not identity.from_outside:
        raise Error(
            Code.UNAUTHENTICATED, "CALLER_UNKNOWN", "The call did not come through the mesh."
        )
    elif not audience.public:
        _check_user(audience, identity)


def _check_user(audience: Audience, identity: Identity) -> None:
    if not audience.signed_in:
        raise _denied("Only services of the mesh may call this method.")
    if not identity.signed_in:
        raise Error(
            Code.UNAUTHENTICATED,
            "TOKEN_MISSING",
            "Sign in and send the access token as 'Authorization: Bearer …'.",
        )
    if not (audience.user or audience.owner or identity.roles & audience.roles):
        raise _denied(f"This needs the permission {audience.permission}, which you do not hold.")


def _denied(message: str) -> Error:
    return Error(Code.PERMISSION_DENIED, "ACCESS_DENIED", message)
