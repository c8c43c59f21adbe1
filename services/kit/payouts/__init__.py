"""Money that leaves an account of the service, exactly once, whatever is killed.

    claim, ordered = payouts.ordered(Payout(...))
    await call.commit(response, store.claimed(...), *ordered, ...)
    payouts.adopt(claim)

What is ordered is paid: the order is committed with the act that owes it, a pipeline makes the
transfer, and any replica goes on with it. So nothing has to be rolled back when a transfer fails
(F-42); one that cannot be made now is tried until it can. `icto_payouts_overdue` tells of those.
"""

from services.kit.payouts.payouts import PaidOut, Payout, Payouts

__all__ = ["PaidOut", "Payout", "Payouts"]
