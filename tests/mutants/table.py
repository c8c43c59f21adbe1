"""The guards, and how each is taken away. A row more is a line more.

A mutant is one literal replacement in one file. `before` must stand in the file exactly once; each
of the tests must pass on the project as it is, and fail on the mutant. tests/unit/test_mutants.py
keeps the table from going stale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Mutant:
    """One guard, and the tests that stand for it.

    Attributes:
        guard: what is taken away, in words.
        file: where it stands.
        before: the text of the guard.
        after: what stands there instead.
        tests: node ids of pytest, without parameters.
    """

    guard: str
    file: str
    before: str
    after: str
    tests: Sequence[str]


_MONEY: Final = "tests/behaviour/test_money_rows.py::"
_PAYMENTS: Final = "tests/behaviour/test_payments.py::"
_TOKENS: Final = "tests/behaviour/test_token_rows.py::"
_BACKEND: Final = "tests/behaviour/test_backend_rows.py::"
_JOURNAL: Final = "tests/behaviour/test_journal.py::"
_IDEMPOTENCY: Final = "tests/behaviour/test_idempotency.py::"
_PLATFORM: Final = "tests/unit/test_platform.py::"
_LEDGER: Final = "tests/unit/test_ledger_rules.py::"
_DISTRIBUTED: Final = "tests/behaviour/test_distribution_rows.py::"
_SHARES: Final = "tests/unit/test_distribution_rules.py::"
_MERKLE: Final = "tests/unit/test_merkle.py::"
_RULES: Final = "tests/unit/test_payment_rules.py::"

MUTANTS: Final[Sequence[Mutant]] = (
    Mutant(
        "refund: compare-and-set of its state",
        "services/invoice_storage/store.py",
        "WHERE id = $1 AND state = $2\n",
        "WHERE id = $1 AND $2::smallint IS NOT NULL\n",
        [_MONEY + "test_a_refund_that_two_people_process_at_once_is_processed_once"],
    ),
    Mutant(
        "refund: one for each payment",
        "services/invoice_storage/schema.sql",
        "CREATE UNIQUE INDEX refunds_payment",
        "CREATE INDEX refunds_payment",
        [_MONEY + "test_a_payment_has_one_refund_that_was_not_turned_down"],
    ),
    Mutant(
        "refund: a request that was taken back holds its settlement up",
        "services/invoice_storage/store.py",
        "WHERE id = $1 AND kit_require(state = 1, $5)",
        "WHERE id = $1 AND (state = 1 OR $5::text IS NULL)",
        [_MONEY + "test_a_request_that_was_taken_back_meanwhile_holds_its_settlement_up"],
    ),
    Mutant(
        "refund: only after delivery was given up",
        "services/invoice_storage/domain.py",
        "if payment.state is not PaymentState.SETTLED or payment.refunded_amount != refund.amount:",
        "if payment.state is PaymentState.FAILED:",
        [_RULES + "test_a_refund_is_approved_once_delivery_was_given_up"],
    ),
    Mutant(
        "payment: one for each quote",
        "services/invoice_storage/schema.sql",
        "CREATE UNIQUE INDEX payments_quote",
        "CREATE INDEX payments_quote",
        [_MONEY + "test_two_payments_on_one_quote_cannot_even_be_written"],
    ),
    Mutant(
        "payment: settled once",
        "services/invoice_storage/store.py",
        "WHERE id = $1 AND kit_require(state = 2, $4)",
        "WHERE id = $1 AND $4::text IS NOT NULL",
        [
            _MONEY + "test_a_payment_is_settled_once",
            _MONEY + "test_what_was_not_charged_cannot_be_settled",
        ],
    ),
    Mutant(
        "quote: used by one operation",
        "services/invoice_storage/store.py",
        "  AND kit_require(used_by IS NULL OR used_by = $2, $6)\n",
        "  AND (used_by IS NULL OR $6::text IS NOT NULL)\n",
        [_MONEY + "test_a_quote_knows_what_it_pays_for_without_the_index"],
    ),
    Mutant(
        "quote: its owner's alone",
        "services/invoice_storage/store.py",
        "  AND kit_require(owner = $3, $5)\n",
        "  AND (owner = $3 OR $5::text IS NOT NULL)\n",
        [_MONEY + "test_a_foreign_quote_pays_for_nothing"],
    ),
    Mutant(
        "quote: good until it expires",
        "services/invoice_storage/store.py",
        "  AND kit_require(expire_time > $4, $7)\n",
        "  AND (expire_time > $4 OR $7::text IS NOT NULL)\n",
        [_MONEY + "test_a_quote_counts_as_of_when_the_order_was_accepted"],
    ),
    Mutant(
        "charge: the ledger's deduplication",
        "services/ledger/domain.py",
        "        if index is not None:\n",
        "        if index == -1:\n",
        [_LEDGER + "test_a_duplicate_names_the_block_of_the_first_one"],
    ),
    Mutant(
        "charge: the allowance covers amount and fee",
        "services/ledger/domain.py",
        "if allowance < transfer.amount + fee:",
        "if allowance < transfer.amount:",
        [_LEDGER + "test_an_allowance_that_is_one_unit_short_is_refused"],
    ),
    Mutant(
        "charge: too old means unknown, so its block is looked for",
        "services/kit/transfers.py",
        "        found = await self._find(ledger, memo)\n",
        "        found = None\n",
        [_PAYMENTS + "test_a_charge_that_is_resumed_after_two_days_finds_its_block"],
    ),
    Mutant(
        "token: the tombstone of an operation nobody heard of",
        "services/token_deployer/store.py",
        'if row is not None and row["state"] == State.ABANDONED:',
        "if row is not None and not row:",
        [_TOKENS + "test_what_was_given_up_before_anybody_heard_of_it_stays_given_up"],
    ),
    Mutant(
        "token: the tombstone of an operation on its way",
        "services/token_deployer/store.py",
        "WHERE id = $1 AND kit_require(state <> 9, $4)",
        "WHERE id = $1 AND $4::text IS NOT NULL",
        [
            _TOKENS + "test_what_was_given_up_on_its_way_is_never_delivered",
            _TOKENS + "test_delivering_and_giving_up_at_once_is_one_of_them",
        ],
    ),
    Mutant(
        "token: a payment is consumed once",
        "services/token_deployer/schema.sql",
        "payment      text        UNIQUE,",
        "payment      text,",
        [_TOKENS + "test_a_payment_is_consumed_once"],
    ),
    Mutant(
        "token: a symbol is one token's",
        "services/token_deployer/schema.sql",
        "CREATE UNIQUE INDEX tokens_symbol",
        "CREATE INDEX tokens_symbol",
        [
            _TOKENS + "test_a_symbol_is_taken_from_its_reservation_on_in_any_case",
            _TOKENS + "test_a_symbol_that_many_want_at_once_goes_to_one",
        ],
    ),
    Mutant(
        "journal: the epoch fences late writes",
        "services/kit/journal/postgres.py",
        "WHERE kit_pipelines.id = batch.id AND kit_pipelines.epoch = batch.epoch\n",
        "WHERE kit_pipelines.id = batch.id AND batch.epoch > 0\n",
        [
            _JOURNAL + "test_a_late_write_is_refused_and_leaves_nothing",
            _JOURNAL + "test_a_worker_stopped_past_its_lease_cannot_write_when_it_wakes",
        ],
    ),
    Mutant(
        "journal: what has a lease is not claimed",
        "services/kit/journal/postgres.py",
        "      AND (lease_time IS NULL OR lease_time < clock_timestamp())\n",
        "",
        [_JOURNAL + "test_whoever_begins_a_pipeline_has_it"],
    ),
    Mutant(
        "journal: a pipeline that kills its workers is parked",
        "services/kit/journal/engine.py",
        "if work.claim.idle_claims > _MAX_IDLE_CLAIMS:",
        "if work.claim.idle_claims < 0:",
        [_JOURNAL + "test_a_pipeline_that_kills_whoever_works_on_it_is_parked"],
    ),
    Mutant(
        "request id: another body is another request",
        "services/kit/idempotency.py",
        '    if row["body_hash"] != key.body_hash:\n',
        '    if not row["body_hash"]:\n',
        [_IDEMPOTENCY + "test_another_body_under_the_same_id_is_refused"],
    ),
    Mutant(
        "request id: one user's alone",
        "services/kit/call.py",
        "            self.principal,\n            self.method.full_name,\n",
        '            "",\n            self.method.full_name,\n',
        [_IDEMPOTENCY + "test_an_id_belongs_to_one_user_and_one_method"],
    ),
    Mutant(
        "ownership: a row is its owner's",
        "services/kit/call.py",
        "if row is None or not (self.permitted or row.owner == self.principal):",
        "if row is None:",
        [_PLATFORM + "test_a_row_is_its_owners_and_whose_permission_says_so"],
    ),
    Mutant(
        "ownership: a handler that forgets fails closed",
        "services/kit/call.py",
        "if self.method.audience.owner and self.identity.from_outside and not self._owner_checked:",
        "if self.method.audience.owner and not self.identity.from_outside:",
        [_PLATFORM + "test_a_handler_that_forgets_the_owner_fails_closed"],
    ),
    Mutant(
        "services: only those that the contract names",
        "services/kit/authorization.py",
        "if not audience.admits_service(identity.caller):",
        "if not identity.caller:",
        [_PLATFORM + "test_only_the_services_that_the_contract_names_call_a_method"],
    ),
    Mutant(
        "identity: a service acts for a user only where it may",
        "services/kit/identity.py",
        "if method.on_behalf_of else",
        "if method.path else",
        [_PLATFORM + "test_a_service_acts_for_a_user_only_where_the_contract_says_so"],
    ),
    Mutant(
        "emergency stop: nothing changes",
        "services/kit/platform.py",
        "        if known.emergency_stop:\n            raise _stopped()\n",
        "",
        [_PLATFORM + "test_a_stop_blocks_every_change_that_is_not_meant_for_it"],
    ),
    Mutant(
        "emergency stop: it takes two people to release it",
        "services/backend/config_store.py",
        "ON CONFLICT (principal) DO UPDATE SET request_time = kit_now()",
        "ON CONFLICT (principal) DO UPDATE SET principal = release_requests.principal || '.'",
        [_BACKEND + "test_a_stop_is_released_by_two_people_within_a_while"],
    ),
    Mutant(
        "features: a flag that is off blocks its methods",
        "services/kit/platform.py",
        "if method.feature and not getattr(known.features, method.feature):",
        "if method.feature and known.revision < 0:",
        [_PLATFORM + "test_a_feature_that_is_off_blocks_its_methods_and_no_other"],
    ),
    Mutant(
        "configuration: compare-and-set of its revision",
        "services/backend/config_rules.py",
        "    if given != current:\n",
        "    if given > current:\n",
        [_BACKEND + "test_changes_come_one_after_the_other"],
    ),
    Mutant(
        "limits: tokens of one user",
        "services/backend/store.py",
        "WHERE kit_require(users.token_count < $2, $5)\n",
        "WHERE (users.token_count < $2 OR $5::text IS NOT NULL)\n",
        [_BACKEND + "test_a_user_has_so_many_tokens_those_on_their_way_among_them"],
    ),
    Mutant(
        "limits: pause between two deployments",
        "services/backend/store.py",
        "OR users.last_deployment <= kit_now() - $4::interval, $7)",
        "OR users.last_deployment > kit_now() - $4::interval, $7)",
        [_BACKEND + "test_a_user_waits_between_two_deployments"],
    ),
    Mutant(
        "distribution: a claim is bounded by what is unlocked",
        "services/distribution_deployer/claiming.py",
        "if asked is not None and asked > open_now:",
        "if asked is not None and asked > 2 * open_now:",
        [_SHARES + "test_a_claim_takes_exactly_what_is_asked_and_never_more_than_is_open"],
    ),
    Mutant(
        "distribution: an allocation is bounded in its row, too",
        "services/distribution_deployer/schema.sql",
        "CHECK (claimed BETWEEN 0 AND amount)",
        "CHECK (claimed >= 0)",
        [_DISTRIBUTED + "test_more_than_the_allocation_cannot_even_be_written"],
    ),
    Mutant(
        "distribution: what was unlocked early is closed",
        "services/distribution_deployer/claiming.py",
        "if self.held or self.allocation.closed:",
        "if self.held:",
        [_SHARES + "test_closed_and_paused_holdings_give_nothing"],
    ),
    Mutant(
        "distribution: a pause and a deadline hold claims",
        "services/distribution_deployer/claiming.py",
        "held = category.id in distribution.held or not _open(distribution)",
        "held = category.id in distribution.held and not _open(distribution)",
        [_SHARES + "test_closed_and_paused_holdings_give_nothing"],
    ),
    Mutant(
        "distribution: a cancellation keeps claims out while it adds up",
        "services/distribution_deployer/store.py",
        '_EXCLUDE: Final = "SELECT pg_advisory_xact_lock(',
        '_EXCLUDE: Final = "SELECT pg_advisory_xact_lock_shared(',
        [_DISTRIBUTED + "test_a_cancellation_waits_for_claims_in_flight_and_sees_them"],
    ),
    Mutant(
        "distribution: a pool has so many shares",
        "services/distribution_deployer/store.py",
        "AND registered < seats AND reserved + $3 <= amount",
        "AND (registered < seats OR reserved + $3 >= 0)",
        [_DISTRIBUTED + "test_a_pool_gives_its_shares_away_once"],
    ),
    Mutant(
        "distribution: one uses a list",
        "services/distribution_deployer/store.py",
        "WHERE id = ANY ($1::uuid[]) AND kit_require(distribution_id IS NULL, $3)",
        "WHERE id = ANY ($1::uuid[]) AND (distribution_id IS NULL OR $3::text IS NOT NULL)",
        [_DISTRIBUTED + "test_one_distribution_uses_a_list"],
    ),
    Mutant(
        "distribution: one launch for a payment",
        "services/distribution_deployer/store.py",
        "WHERE kit_require(distribution_payments.work = excluded.work, $3)",
        "WHERE distribution_payments.work = excluded.work OR $3::text IS NOT NULL",
        [_DISTRIBUTED + "test_a_payment_pays_the_steps_of_one_launch"],
    ),
    Mutant(
        "distribution: what was delivered is not given up",
        "services/distribution_deployer/store.py",
        "SET state = CASE WHEN distributions.state IN (1, 6) THEN 7",
        "SET state = CASE WHEN distributions.state IN (1, 2, 6) THEN 7",
        [_DISTRIBUTED + "test_what_was_delivered_is_not_given_up_and_what_was_not_is"],
    ),
    Mutant(
        "distribution: one return to the escrow at a time",
        "services/distribution_deployer/schema.sql",
        "CREATE UNIQUE INDEX disbursements_return",
        "CREATE INDEX disbursements_return",
        [_DISTRIBUTED + "test_one_return_to_the_escrow_is_on_its_way_at_a_time"],
    ),
    Mutant(
        "distribution: only legal moves",
        "services/distribution_deployer/domain.py",
        "    if (distribution.state, target) not in _LEGAL:\n",
        "    if distribution.state is target:\n",
        [_SHARES + "test_only_legal_moves_are_made"],
    ),
    Mutant(
        "merkle: a leaf is bound to its list",
        "services/distribution_deployer/merkle.py",
        "                list_id.bytes,\n",
        "",
        [_MERKLE + "test_a_proof_proves_no_other_amount_recipient_category_or_list"],
    ),
    Mutant(
        "merkle: a proof leads to the root",
        "services/distribution_deployer/merkle.py",
        "    return node == root\n",
        "    return node == root or len(proof) > 0\n",
        [
            _MERKLE + "test_a_proof_proves_no_other_leaf",
            _MERKLE + "test_a_spoilt_short_or_long_proof_proves_nothing",
        ],
    ),
)
