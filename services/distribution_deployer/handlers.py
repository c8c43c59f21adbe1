"""What the handlers of distributions work with, whatever their subject."""

from icto.distribution.v1.distribution_handlers import DistributionServiceHandlers
from services.distribution_deployer.money import Money
from services.distribution_deployer.visibility import Visibility
from services.kit.journal.pipelines import Pipelines
from services.kit.serving import Call, Kit


class DistributionHandlers(DistributionServiceHandlers[Call]):
    """Base of those classes that each have the methods of one subject."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._faults = kit.faults
        self._pipelines = Pipelines(kit)
        self._money = Money(kit, self._pipelines)
        self._visibility = Visibility(kit, self._money)
