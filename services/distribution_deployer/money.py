"""What leaves a distribution's account: recorded, ordered, and paid exactly once."""

from collections.abc import Sequence
from typing import Final, assert_never
from uuid import UUID

from contract import ids
from contract.errors import Code, RemoteError
from icto.distribution.v1 import distribution_pb2 as pb
from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2
from services.distribution_deployer import claim_rules, domain, store
from services.distribution_deployer.claim_rules import Held
from services.distribution_deployer.domain import (
    MESH_NAME,
    Account,
    Category,
    Disbursement,
    Distribution,
    Kind,
    Listed,
    Pool,
    Token,
    TokenHolder,
    Whitelist,
)
from services.distribution_deployer.messages import claim_message, distribution_name, parse_account
from services.kit.audit.operations import Operation
from services.kit.journal.model import Claim as Begun
from services.kit.journal.pipelines import Pipelines
from services.kit.money.escrow import account_of
from services.kit.money.transfers import Transfers
from services.kit.payouts import PaidOut, Payout, Payouts
from services.kit.serving import Kit
from services.kit.storage import Connection, Statement
from services.kit.vesting.vesting_rules import curve

BURNED: Final = Account("aaaaa-aa")
"""The management principal's account: nobody has a key to it."""
_SERVICE: Final = pb.DESCRIPTOR.services_by_name["DistributionService"]
_CLAIMED: Final = {
    Kind.VESTED: Operation.of(_SERVICE, "Claim"),
    Kind.EARLY_UNLOCK: Operation.of(_SERVICE, "EarlyUnlock"),
}
_CONSEQUENCES: Final = {
    Kind.PENALTY: Operation("PayDistributionPenalty"),
    Kind.TO_OWNER: Operation("ReturnDistributed"),
    Kind.TO_ESCROW: Operation("ReturnDistributed"),
}


class Money:
    """The accounts of distributions."""

    def __init__(self, kit: Kit, pipelines: Pipelines) -> None:
        self._transfers = Transfers(kit)
        self._payouts = Payouts(kit, pipelines, self._settle)
        self._paid = kit.telemetry.metrics.counter(
            "icto_distribution_payments_total", "Payments of distributions, by why.", "kind"
        )

    async def run(self) -> None:
        """Looks after what is owed, as long as the replica lives."""
        await self._payouts.run()

    async def token(self, ledger: str) -> Token:
        """What a ledger takes now, read anew each time (F-47), and who mints on it."""
        found = await self._transfers.ledger.GetLedger(ledger_pb2.GetLedgerRequest(name=ledger))
        minter = None
        if found.HasField("minting_account"):
            minter = parse_account(found.minting_account, "minting_account")
        return Token(int(found.transfer_fee), minter)

    async def balance(self, distribution: Distribution) -> int:
        """What a distribution's account holds."""
        subaccount = _subaccount(distribution)
        try:
            return await self._transfers.balance(distribution.ledger, subaccount=subaccount)
        except RemoteError as error:
            if error.code is Code.NOT_FOUND:
                # Its token was given up, and nothing moves on that ledger any more.
                return 0
            raise

    async def newest_block(self, ledger: str) -> int:
        """Index of the newest block of a ledger; every ledger has one."""
        found = await self._transfers.ledger.GetLedger(ledger_pb2.GetLedgerRequest(name=ledger))
        return max(0, int(found.block_count) - 1)

    async def balance_after(self, ledger: str, owner: str, block_index: int) -> int:
        """What somebody's default account held after a block."""
        request = ledger_pb2.GetAccountRequest(
            name=f"{ledger}/accounts/{owner}", block_index=block_index
        )
        return int((await self._transfers.ledger.GetAccount(request)).balance)

    async def holds_enough(self, holder: TokenHolder, principal: str) -> bool:
        """Whether somebody held after the snapshot what a condition asks for."""
        block = holder.block_index or 0
        return await self.balance_after(holder.ledger, principal, block) >= holder.min_amount

    def ordered(
        self, distribution: Distribution, one: Disbursement, to: Account
    ) -> tuple[Begun, tuple[Statement, ...]]:
        """What a transaction writes to pay something, and what to adopt after its commit."""
        payout = Payout(
            one.id,
            distribution.ledger,
            _subaccount(distribution),
            (to.owner, to.subaccount),
            one.net,
            one.fee,
        )
        begun, ordered = self._payouts.ordered(payout)
        return begun, (store.disbursed(one), *ordered)

    def adopt(self, begun: Sequence[Begun]) -> None:
        """Pays at once what was ordered, after the commit."""
        for one in begun:
            self._payouts.adopt(one)

    async def give_back(
        self, connection: Connection, distribution: Distribution, amount: int, token: Token
    ) -> list[Begun]:
        """Orders what goes back to the owner, unless the fee would eat it."""
        to = Account(distribution.owner)
        return await self._return(connection, distribution, Kind.TO_OWNER, to, amount, token)

    async def clear(
        self, connection: Connection, distribution: Distribution
    ) -> tuple[int, list[Begun]]:
        """Orders what lies on the account of one that will never be active back to its escrow.

        The distribution must be locked. Returns what will arrive. While a return is on its way
        nothing is ordered: the balance would be counted twice.
        """
        if not distribution.ledger or await store.return_is_open(connection, distribution.id):
            return 0, []
        balance = await self.balance(distribution)
        if not balance:
            return 0, []
        token, to = await self.token(distribution.ledger), distribution.escrow
        begun = await self._return(connection, distribution, Kind.TO_ESCROW, to, balance, token)
        return (balance - token.fee_to(to) if begun else 0), begun

    async def _return(
        self,
        connection: Connection,
        distribution: Distribution,
        kind: Kind,
        to: Account,
        amount: int,
        token: Token,
    ) -> list[Begun]:
        if amount <= token.fee:
            return []
        one = Disbursement(
            id=new_id(distribution),
            distribution_id=distribution.id,
            kind=kind,
            principal=to.owner,
            gross=amount,
            fee=token.fee_to(to),
        )
        begun, ordered = self.ordered(distribution, one, to)
        await connection.apply(*ordered)
        return [begun]

    async def _settle(
        self, connection: Connection, paid: Sequence[PaidOut]
    ) -> Sequence[events.Event]:
        """Records blocks, and tells the audit once they are (F-45)."""
        traces = {one.id: one.traceparent for one in paid}
        done = await store.paid(connection, paid)
        for one in done:
            self._paid.labels(one.kind.name).inc()
        return [_told(one, traces[one.id]) for one in done]


def new_id(distribution: Distribution) -> UUID:
    """An id for something that leaves a distribution."""
    return ids.new_id(distribution.operation)


async def unowed(connection: Connection, distribution: Distribution, moment: int) -> int:
    """What lies on its account and belongs to nobody, if nothing unlocks after a moment."""
    starts = {c.id: distribution.start_of(c) for c in distribution.spec.categories}
    unlocked = await _unlocked(connection, distribution, moment)
    held = await store.held(connection, distribution.id, unlocked)
    owed = sum(
        claim_rules.outstanding(category, start, moment, held.get(category.id, Held()))
        for category in distribution.spec.categories
        if (start := starts[category.id]) is not None
    )
    return distribution.spec.total - await store.sent(connection, distribution.id) - owed


async def close_dust(connection: Connection, distribution: Distribution, fee: int) -> None:
    """Closes the allocations of a cancelled distribution of which no claim could ever be paid.

    Whoever may take no more than the fee, of all categories together, may take nothing, and nothing
    unlocks any more. Recipients of a list are not known before they claim: with a list in it, a
    distribution keeps what is theirs.
    """
    if any(isinstance(one.source, Listed) for one in distribution.spec.categories):
        return
    unlocked = await _unlocked(connection, distribution, distribution.moment)
    await connection.apply(store.dust_closed(distribution.id, unlocked, fee))


async def _unlocked(
    connection: Connection, distribution: Distribution, moment: int
) -> dict[tuple[int, int], int]:
    """What is unlocked at a moment, by category and the amount that somebody was allocated."""
    return {
        (category.id, amount): curve(category.schedule, amount, start).unlocked(moment)
        for category, amount in await _amounts(connection, distribution)
        if (start := distribution.start_of(category)) is not None
    }


async def _amounts(
    connection: Connection, distribution: Distribution
) -> list[tuple[Category, int]]:
    """What is allocated to somebody, each amount of a category once; lists are taken as a whole.

    All shares of a pool are the same, and whitelists name a thousand recipients at most.
    """
    spec, named = distribution.spec, list[int]()
    shares = list[tuple[Category, int]]()
    for category in spec.categories:
        match category.source:
            case Whitelist():
                named.append(category.id)
            case Listed():
                pass
            case Pool(share=share):
                shares.append((category, share or 0))
            case _:
                assert_never(category.source)
    found = await store.amounts(connection, distribution.id, named) if named else []
    return [*shares, *((spec.category(number), amount) for number, amount in found)]


async def unowed_at_end(connection: Connection, distribution: Distribution) -> int:
    """The same, once everything is unlocked: what nobody registered for, and dust."""
    start = distribution.timing.start if distribution.timing else distribution.now
    return await unowed(connection, distribution, domain.last_unlock(distribution.spec, start))


def _subaccount(distribution: Distribution) -> bytes:
    _, subaccount = account_of(MESH_NAME, distribution.operation)
    return subaccount


def _told(one: Disbursement, traceparent: str) -> events.Event:
    """What the audit is told of a payment: the end of a claim, or what followed from an act."""
    claimed = _CLAIMED.get(one.kind)
    kind = claimed or _CONSEQUENCES[one.kind]
    return kind.told(
        events.ACT_STATUS_COMPLETED,
        claim_message(one).name if claimed else "",
        subject=distribution_name(one.distribution_id),
        principal=one.principal,
        caller=MESH_NAME,
        details={
            "amount": str(one.net),
            "block_index": str(one.block_index),
            "kind": one.kind.name,
        },
        traceparent=traceparent,
    )
