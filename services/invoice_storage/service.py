"""Handlers of payments: translate, call, answer."""

import asyncio
import logging
from datetime import timedelta
from typing import Final

from typing_extensions import override

from contract import ids
from contract.errors import Error
from icto.payment.v1 import payment_pb2 as pb
from icto.payment.v1.payment_handlers import payment_service
from services.invoice_storage import domain, store
from services.invoice_storage.charges import Charges
from services.invoice_storage.domain import CHARGED, Lack, Quote
from services.invoice_storage.handlers import visible_owner
from services.invoice_storage.messages import (
    invoice_message,
    parse_items,
    payment_message,
    prices_of,
    quote_message,
)
from services.invoice_storage.refund_handlers import RefundHandlers
from services.invoice_storage.treasury import Spender
from services.kit.answering import paging
from services.kit.forgetting import keep_forgetting
from services.kit.money import amounts
from services.kit.serving import Call, Kit, Serving

log = logging.getLogger(__name__)

QUOTES: Final = "unused_quotes"
_FLOAT_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 1.0
# A charge follows its quote within this time; an approval that ends sooner is not good enough.
_APPROVAL_SECONDS: Final = 60


def compose(kit: Kit) -> Serving:
    """The service of its parts."""
    handlers = PaymentService(kit)
    return Serving(payment_service(handlers), [handlers.run])


class PaymentService(Charges, RefundHandlers):
    """icto.payment.v1.PaymentService."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._kit = kit
        self._most_quotes = kit.service.retention[QUOTES].per_user
        self._balance = kit.telemetry.metrics.gauge(
            "icto_treasury_balance_base_units", "What the treasury holds of the fee token."
        )
        self._float = kit.telemetry.metrics.gauge(
            "icto_treasury_float_base_units", "What the treasury should hold at least."
        )

    async def run(self) -> None:
        """Pays refunds and watches the treasury, as long as the replica lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._refunds.run())
            tasks.create_task(self._watch_treasury())
            tasks.create_task(keep_forgetting(self._kit, QUOTES, store.forget_quotes))

    @override
    async def CreateQuote(self, request: pb.CreateQuoteRequest, call: Call) -> pb.Quote:
        """Prices an order."""
        config = self._platform.config
        items = parse_items(request.items)
        domain.check_order(items)
        volume = await store.volume(self._database, call.principal)
        lines, points = domain.price_lines(
            items,
            prices_of(config.payment),
            volume,
            discounts=config.features.volume_discounts,
        )
        minimum = amounts.parse(config.payment.minimum_payment_amount, "minimum")
        now = await store.now(self._database)
        quote = Quote(
            id=ids.new_id(call.principal),
            owner=call.principal,
            lines=lines,
            total=domain.total(lines, minimum),
            discount_basis_points=points,
            ledger=config.payment.ledger,
            ledger_fee=await self._treasury.fee(config.payment.ledger),
            price_revision=config.revision,
            expire_time=now + timedelta(seconds=config.payment.quote_lifetime.seconds),
        )
        response = quote_message(quote, self._treasury.account, now)
        act = call.act(details={"total": response.total})
        added = store.added_quote(quote, self._most_quotes)
        try:
            return await call.commit(response, added, subject=response.name, act=act)
        except Error:
            # A repeat of the one that was the last there may be.
            await call.replay()
            raise

    @override
    async def GetQuote(self, request: pb.GetQuoteRequest, call: Call) -> pb.Quote:
        """One quote of the caller, or of the user whom a service acts for."""
        quote = await store.get_quote(self._database, ids.parse_name("quotes", request.name))
        found = call.owned(quote, "quote", request.name)
        return quote_message(found, self._treasury.account, await store.now(self._database))

    @override
    async def CheckPaymentApproval(
        self, request: pb.CheckPaymentApprovalRequest, call: Call
    ) -> pb.CheckPaymentApprovalResponse:
        """Looks at the ledger as the charge would (F-9, F-58)."""
        found = await store.get_quote(
            self._database, ids.parse_name("quotes", request.quote, "quote")
        )
        quote = call.owned(found, "quote", request.quote)
        now = await store.now(self._database)
        domain.check_quote_usable(quote, now)
        spender = await self._treasury.spender(quote.ledger, quote.owner)
        latest = int((now + timedelta(seconds=_APPROVAL_SECONDS)).timestamp() * 1e9)
        soon = spender.expires is not None and spender.expires < latest
        problem = await self._problem(quote, spender, expires_soon=soon)
        approval = pb.CheckPaymentApprovalResponse(
            approved=not problem,
            required=str(quote.required_allowance),
            allowance=str(spender.allowance),
            balance=str(spender.balance),
            problem=problem,
        )
        if spender.expires is not None:
            approval.expire_time.FromNanoseconds(spender.expires)
        return approval

    async def _problem(self, quote: Quote, spender: Spender, *, expires_soon: bool) -> str:
        lack = domain.lack_of(quote, spender.allowance, expires_soon, spender.balance)
        if lack is None:
            return ""
        found = spender.balance if lack is Lack.BALANCE else spender.allowance
        unit = await self._treasury.unit(quote.ledger)
        return domain.approval_problem(lack, quote, found, unit)

    @override
    async def GetPayment(self, request: pb.GetPaymentRequest, call: Call) -> pb.Payment:
        """One payment."""
        payment_id = ids.parse_name("payments", request.name)
        row = await store.get_payment(self._database, payment_id)
        payment = call.owned(row, "payment", request.name)
        return payment_message(payment, await store.refund_of(self._database, payment.id))

    @override
    async def ListPayments(
        self, request: pb.ListPaymentsRequest, call: Call
    ) -> pb.ListPaymentsResponse:
        """Payments, newest first."""
        owner = visible_owner(request.owner, call, "MANAGE_PAYMENTS")
        asked = paging.by_id(request)
        rows = await store.list_payments(self._database, owner, asked.after, asked.limit)
        page, token = asked.page(rows, map(payment_message, rows))
        return pb.ListPaymentsResponse(payments=page, next_page_token=token)

    @override
    async def GetInvoice(self, request: pb.GetInvoiceRequest, call: Call) -> pb.Invoice:
        """The invoice of a payment that was charged."""
        payment_id = ids.parse_name("invoices", request.name)
        payment = await store.get_payment(self._database, payment_id)
        if payment is not None and payment.state not in CHARGED:
            payment = None
        return invoice_message(call.owned(payment, "invoice", request.name))

    @override
    async def ListInvoices(
        self, request: pb.ListInvoicesRequest, call: Call
    ) -> pb.ListInvoicesResponse:
        """Invoices, newest first."""
        owner = visible_owner(request.owner, call, "MANAGE_PAYMENTS")
        asked = paging.by_id(request)
        rows = await store.list_payments(self._database, owner, asked.after, asked.limit, CHARGED)
        page, token = asked.page(rows, map(invoice_message, rows))
        return pb.ListInvoicesResponse(invoices=page, next_page_token=token)

    @override
    async def GetPaymentTotals(
        self, request: pb.GetPaymentTotalsRequest, call: Call
    ) -> pb.GetPaymentTotalsResponse:
        """Sums over everything."""
        del request, call
        sums = await store.totals(self._database)
        ledger = self._platform.config.payment.ledger
        return pb.GetPaymentTotalsResponse(
            charged=str(sums.charged),
            delivered=str(sums.delivered),
            refunded=str(sums.refunded),
            refund_pending=str(sums.owed_back - sums.refunded),
            held=str(sums.held),
            treasury_balance=str(await self._treasury.balance(ledger)),
            treasury_short_count=sums.short,
        )

    async def _watch_treasury(self) -> None:
        """Measures what the treasury holds; a treasury below its float shows before it is short."""
        short = False
        while True:
            pause = _FLOAT_SECONDS
            try:
                settings = self._platform.config.payment
                wanted = amounts.parse(settings.treasury_float, "treasury_float")
                held = await self._treasury.balance(settings.ledger)
                self._balance.set(held)
                self._float.set(wanted)
                if held < wanted and not short:
                    log.warning("the treasury holds %d, below its float of %d", held, wanted)
                short = held < wanted
            except Error as error:
                log.debug("the treasury cannot be seen: %s", error)
                pause = _RETRY_SECONDS
            await asyncio.sleep(pause)
