"""The chain port's first adapter: the embedded ledger. It keeps balances; it is no blockchain."""

from uuid import UUID

from contract import ids
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from services.token_deployer.domain import State, Token, held_minting_account
from services.token_deployer.messages import account_message


class LedgerChain:
    """Tokens on the mesh's own ledger. A token's ledger has the token's id."""

    stages = (State.INSTALLING,)
    """A ledger belongs to its owner from its first block on, so that one call does it all."""

    def __init__(self, ledger: LedgerServiceStub) -> None:
        self._ledger = ledger

    async def create(self, token: Token) -> None:
        """Nothing to claim: the id was made with the token and routes to the ledger's shard."""

    async def install(self, token: Token) -> None:
        """Creates the ledger with its initial balances, in the custodian's hands if any."""
        spec, custodian = token.spec, token.custodian
        minting = spec.minting_account
        if minting and custodian:
            minting = held_minting_account(custodian)
        await self._ledger.CreateLedger(
            ledger_pb2.CreateLedgerRequest(
                request_id=f"{token.id}:install",
                name=ids.resource_name("ledgers", token.id),
                display_name=spec.display_name,
                symbol=spec.symbol,
                decimals=spec.decimals or 0,
                transfer_fee=str(spec.transfer_fee or 0),
                initial_balances=[
                    ledger_pb2.InitialBalance(account=account_message(account), amount=str(amount))
                    for account, amount in spec.initial_balances
                ],
                minting_account=account_message(minting),
                fee_collector=account_message(spec.fee_collector),
                controller=custodian.owner if custodian else token.owner,
            )
        )

    async def abandon(self, token_id: UUID) -> None:
        """Closes the ledger, or keeps it from being created by a late call."""
        await self._ledger.CloseLedger(
            ledger_pb2.CloseLedgerRequest(
                request_id=f"{token_id}:abandon",
                name=ids.resource_name("ledgers", token_id),
            )
        )

    async def transfer_ownership(self, token: Token) -> None:
        """Gives the owner control of the ledger, and the right to mint if the token has it."""
        await self._ledger.SetController(
            ledger_pb2.SetControllerRequest(
                request_id=f"{token.id}:ownership",
                name=ids.resource_name("ledgers", token.id),
                controller=token.owner,
                minting_account=account_message(token.spec.minting_account),
            )
        )
