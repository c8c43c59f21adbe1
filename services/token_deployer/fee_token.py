"""What the token that fees are paid in is called, as its ledger says."""

from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from services.kit.serving import Kit
from services.token_deployer.domain import FeeToken


class FeeTokens:
    """Asks the ledger that the configuration names; a ledger's name and symbol never change."""

    def __init__(self, kit: Kit) -> None:
        self._platform = kit.platform
        self._stub = kit.clients.stub(LedgerServiceStub)
        self._known: dict[str, FeeToken] = {}

    async def current(self) -> FeeToken:
        """The fee token of now.

        Raises:
            Error: the configuration is not known yet, or the ledger does not answer.
        """
        ledger = self._platform.config.payment.ledger
        if ledger not in self._known:
            found = await self._stub.GetLedger(ledger_pb2.GetLedgerRequest(name=ledger))
            self._known[ledger] = FeeToken(found.symbol, found.display_name)
        return self._known[ledger]
