"""What the handlers of payments work with, whatever their subject."""

from contract.errors import Code, Error
from icto.payment.v1.payment_handlers import PaymentServiceHandlers
from services.invoice_storage.refunds import Refunds
from services.invoice_storage.treasury import Treasury
from services.kit.serving import Call, Kit


class PaymentHandlers(PaymentServiceHandlers[Call]):
    """Base of those classes that each have the methods of one subject."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._outbox = kit.outbox
        self._platform = kit.platform
        self._faults = kit.faults
        self._treasury = Treasury(kit)
        self._refunds = Refunds(kit, self._treasury)


def visible_owner(asked: str, call: Call, permission: str) -> str | None:
    """Whose rows the caller sees: their own, or with the permission whoever's they ask for.

    Raises:
        Error: PERMISSION_DENIED, somebody else's without the permission.
    """
    if call.holds(permission):
        return asked or None
    if asked not in ("", call.principal):
        raise Error(Code.PERMISSION_DENIED, "ACCESS_DENIED", "You may list your own only.")
    return call.principal
