"""The service's database.

What every store needs is named here.
"""

from services.kit.storage.database import Connection, Database
from services.kit.storage.statement import Statement

__all__ = ["Connection", "Database", "Statement"]
