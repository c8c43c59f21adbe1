"""Accounts that a service keeps for one operation: a launch's escrow, what a lock holds.

Such an account belongs to the service's own principal, so that nobody else can move what lies
there, and its subaccount is derived from the operation, so that two operations never share one.
"""

import hashlib

from contract import principal


def account_of(mesh_name: str, operation: str) -> tuple[str, bytes]:
    """Owner and 32-byte subaccount of the account that a service keeps for an operation."""
    subaccount = hashlib.sha256(f"icto-escrow:{operation}".encode()).digest()
    return principal.of_service(mesh_name), subaccount
