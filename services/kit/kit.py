"""What a service is given: its database, its clients, its settings, and itself."""

from dataclasses import dataclass

from contract.model import Contract
from contract.service import Service
from observability.setup import Telemetry
from services.kit.client import Clients
from services.kit.database import Database
from services.kit.denials import Denials
from services.kit.faults import Faults
from services.kit.outbox import Outbox
from services.kit.platform import Platform
from services.kit.readiness import Readiness
from services.kit.settings import Settings


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
