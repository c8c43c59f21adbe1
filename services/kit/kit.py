"""What a service is given: its database, its clients, its settings, and itself."""

from dataclasses import dataclass

from contract.model import Contract
from contract.service import Service
from observability.setup import Telemetry
from services.kit.audit.outbox import Outbox
from services.kit.calling.client import Clients
from services.kit.replica.denials import Denials
from services.kit.replica.platform import Platform
from services.kit.replica.readiness import Readiness
from services.kit.settings import Settings
from services.kit.storage.database import Database
from services.kit.testing.faults import Faults


@dataclass(frozen=True)
class Kit:
    """The surroundings of one service in one replica."""

    contract: Contract
    service: Service
    settings: Settings
    database: Database
    outbox: Outbox
    clients: Clients
    telemetry: Telemetry
    readiness: Readiness
    platform: Platform
    faults: Faults
    denials: Denials
