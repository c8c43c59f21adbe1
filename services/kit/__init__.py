"""What every service needs. A service is `service.py`, `domain.py`, `store.py` and `schema.sql`."""

from contract.errors import Code, Error, RemoteError, invalid, not_found
from services.kit.call import Call, Effect
from services.kit.kit import Kit
from services.kit.serving import Serving

__all__ = [
    "Call",
    "Code",
    "Effect",
    "Error",
    "Kit",
    "RemoteError",
    "Serving",
    "invalid",
    "not_found",
]
