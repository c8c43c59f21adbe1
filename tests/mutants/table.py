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


_UNIT: Final = "tests/unit/"
_MONEY: Final = "tests/behaviour/test_money_rows.py::"
_PAYMENTS: Final = "tests/behaviour/test_payments.py::"
_TOKENS: Final = "tests/behaviour/test_token_rows.py::"
_BACKEND: Final = "tests/behaviour/test_backend_rows.py::"
_CHANGES: Final = "tests/behaviour/test_changes.py::"
_JOURNAL: Final = "tests/behaviour/test_journal.py::"
_IDEMPOTENCY: Final = "tests/behaviour/test_idempotency.py::"
_PAGES: Final = "tests/unit/test_paging.py::"
_SIZES: Final = "tests/unit/test_sizes.py::"
_REPLIES: Final = "tests/unit/test_local_replies.py::"
_PLATFORM: Final = "tests/unit/test_platform.py::"
_BLOCKS: Final = "tests/behaviour/test_ledger_rows.py::"
_LEDGER: Final = "tests/unit/test_ledger_rules.py::"
_DISTRIBUTED: Final = "tests/behaviour/test_distribution_rows.py::"
_TIMES: Final = "tests/behaviour/clocks/test_distribution_times.py::"
_WATCH: Final = "tests/behaviour/test_watch.py::"
_STREAMS: Final = "tests/behaviour/test_stream_rows.py::"
_CONDITIONS: Final = "tests/unit/test_preconditions.py::"
_ETAGS: Final = "tests/behaviour/test_etags.py::"
_RENDERED: Final = "tests/unit/test_render.py::"
_CONTRACT: Final = "tests/unit/test_contract.py::"
_TOPOLOGY: Final = "tests/unit/test_topology.py::"
_PROXIES: Final = "tests/behaviour/test_proxies.py::"
_LOCKED: Final = "tests/behaviour/test_lock_rows.py::"
_LOCKS: Final = "tests/unit/test_lock_rules.py::"
_VESTED: Final = "tests/unit/test_vesting.py::"
_SHARES: Final = "tests/unit/test_distribution_rules.py::"
_MERKLE: Final = "tests/unit/test_merkle.py::"
_LAUNCHES: Final = "tests/behaviour/test_launches.py::"
_LAUNCH_RULES: Final = "tests/unit/test_launch_rules.py::"
_STOPPING: Final = "tests/behaviour/test_stopping.py::"
_COMPENSATION: Final = "tests/behaviour/test_compensation.py::"
_ROOM: Final = "tests/unit/test_room.py::"
_RULES: Final = "tests/unit/test_payment_rules.py::"
_SIGN_IN: Final = "tests/unit/test_sign_in_rules.py::"
_SIGNED_IN: Final = "tests/behaviour/test_sign_in.py::"
_UPON: Final = "tests/behaviour/test_acts_upon_people.py::"
_TWO: Final = "tests/unit/test_two_people.py::"
_TWO_PEOPLE: Final = "tests/behaviour/test_two_people.py::"
_PRIVATE: Final = "tests/behaviour/test_private_distributions.py::"
_BODIES: Final = "tests/behaviour/test_rest_bodies.py::"
_TEXTS: Final = "tests/unit/test_texts.py::"
_FORKS: Final = "tests/behaviour/test_forks.py::"
_TERMINAL: Final = "tests/behaviour/test_terminal.py::"
_LINKS: Final = "tests/unit/test_links.py::"
_REQUESTS: Final = "tests/behaviour/test_edge_requests.py::"
_TRACES: Final = "tests/behaviour/test_edge_traces.py::"
_CALLERS: Final = "tests/unit/test_callers.py::"
_DEADLINES: Final = "tests/behaviour/test_deadlines_and_retries.py::"
_SILENCE: Final = "tests/unit/test_silence.py::"
_KILLS: Final = "tests/behaviour/kills/"
_DENIED: Final = "tests/unit/test_denylist.py::"

_OCCUPANCY: Final = "tests/behaviour/test_occupancy.py::"
_CHAIN: Final = "tests/unit/test_audit_chain.py::"
_ARCHIVE: Final = "tests/unit/test_archive.py::"
_BACKUP: Final = "tests/behaviour/test_backup.py::"
_UNUSED: Final = "tests/behaviour/test_unused.py::"

MUTANTS: Final[Sequence[Mutant]] = (
    Mutant(
        "database: a second supervisor is refused",
        "mesh/occupancy.py",
        "if await connection.fetchval(_LOCK):",
        "if await connection.fetchval(_LOCK) is not None:",
        (
            f"{_OCCUPANCY}test_a_second_supervisor_on_a_database_is_refused_in_words",
            f"{_OCCUPANCY}test_a_supervisor_whose_database_was_taken_meanwhile_ends",
        ),
    ),
    Mutant(
        "database: roles carry the id of their installation",
        "mesh/postgres.py",
        'return f"icto_{installation}_{mesh_name}"',
        'return f"icto_all_{mesh_name}"',
        (f"{_OCCUPANCY}test_installations_on_one_server_leave_one_anothers_passwords_alone",),
    ),
    Mutant(
        "database: a copy gets an id of its own",
        "mesh/occupancy.py",
        "WHERE identity.database_oid <> excluded.database_oid\n",
        "WHERE false\n",
        (f"{_OCCUPANCY}test_a_copy_of_a_database_is_another_installation",),
    ),
    Mutant(
        "database: a role that another database uses is not renamed",
        "mesh/postgres.py",
        "SELECT bool_and(\n",
        "SELECT bool_or(\n",
        (f"{_OCCUPANCY}test_a_role_that_another_database_uses_is_left_to_it",),
    ),
    Mutant(
        "token: the fee token's symbol is taken",
        "services/token_deployer/domain.py",
        "    if spec.symbol.upper() == fees.symbol.upper():\n",
        "    if spec.symbol == fees.symbol.lower():\n",
        ("tests/unit/test_token_rules.py::test_no_token_passes_for_the_one_that_fees_are_paid_in",),
    ),
    Mutant(
        "names: scripts are not mixed",
        "services/kit/lookalikes.py",
        "    if len(scripts) > 1 and not",
        "    if len(scripts) > 9 and not",
        ("tests/unit/test_lookalikes.py::test_other_mixes_are_refused",),
    ),
    Mutant(
        "lock: a revocation leaves no dust",
        "services/lock_deployer/domain.py",
        "if 0 < rest <= fee}",
        "if 0 < rest < fee}",
        (f"{_LOCKS}test_after_a_revocation_nothing_is_left_that_no_claim_could_take",),
    ),
    Mutant(
        "backup: its signature is verified",
        "mesh/archive.py",
        "        key.verify(_small(tar, _SIGNATURE), signed)\n",
        "        _small(tar, _SIGNATURE)\n",
        (f"{_ARCHIVE}test_a_backup_that_was_signed_again_is_refused",),
    ),
    Mutant(
        "backup: each file is what was signed",
        "mesh/archive.py",
        "    if _member(target) != member:\n",
        "    if _member(target).size != member.size:\n",
        (f"{_ARCHIVE}test_no_changed_byte_is_restored",),
    ),
    Mutant(
        "restore: what was there is put back when it fails",
        "mesh/restore.py",
        "    except BaseException:\n        await _put_back(order, run.restoring.read_text())\n",
        "    except BaseException:\n",
        (f"{_BACKUP}test_a_restore_that_fails_or_was_killed_puts_everything_back",),
    ),
    Mutant(
        "restore: what a failed one had made goes",
        "mesh/restore.py",
        "    if note.endswith(_ALL_ASIDE):\n",
        "    if not note:\n",
        (
            f"{_BACKUP}test_a_restore_into_nothing_that_fails_leaves_nothing",
            f"{_BACKUP}test_a_restore_that_was_killed_in_the_middle_is_undone_by_the_next",
        ),
    ),
    Mutant(
        "restore: what is already put back stays",
        "mesh/restore.py",
        "    if note.endswith(_ALL_ASIDE):\n",
        "    if True:\n",
        (f"{_BACKUP}test_a_restore_that_was_killed_in_the_middle_is_undone_by_the_next",),
    ),
    Mutant(
        "audit: only a signed restoration sets checkpoints back",
        "services/audit_storage/checkpoints.py",
        "        if self._signer.verifies_restoration(restoration, signature):\n",
        "        if signature:\n",
        (f"{_CHAIN}test_a_restoration_that_a_stranger_signed_hides_nothing",),
    ),
    Mutant(
        "distributions: what a claim can still take stays after a cancellation",
        "services/distribution_deployer/store.py",
        "AND entitled.amount BETWEEN 1 AND $5",
        "AND $5 >= 0",
        [
            _DISTRIBUTED
            + "test_what_no_claim_could_take_from_a_cancelled_distribution_is_owed_to_nobody"
        ],
    ),
    Mutant(
        "quotes: one that a payment followed is never forgotten",
        "services/invoice_storage/store.py",
        "      AND NOT EXISTS (SELECT FROM payments WHERE quote_id = quotes.id)\n    LIMIT 1000",
        "    LIMIT 1000",
        [
            _MONEY
            + "test_only_quotes_that_expired_long_ago_and_that_no_payment_followed_are_forgotten"
        ],
    ),
    Mutant(
        "quotes: a user has so many that are open",
        "services/invoice_storage/store.py",
        "    ) < $10, $11)\n",
        "    ) < $10 + 1000, $11)\n",
        [_MONEY + "test_open_quotes_are_counted_and_those_used_or_expired_are_not"],
    ),
    Mutant(
        "orders: what was charged is never forgotten",
        "services/backend/store.py",
        "        WHERE ended AND payment = '' AND quote <> '' AND drawn_by IS NULL",
        "        WHERE ended AND quote <> '' AND drawn_by IS NULL",
        [
            _BACKEND
            + "test_only_orders_that_ended_long_ago_without_having_been_charged_are_forgotten"
        ],
    ),
    Mutant(
        "orders: the approval is looked at before one is accepted",
        "services/backend/orders.py",
        "    if int(found.total):\n",
        "    if int(found.total) < 0:\n",
        [_UNUSED + "test_an_order_that_cannot_be_charged_is_refused_and_nothing_of_it_is_stored"],
    ),
    Mutant(
        "lists: one that a distribution uses is not forgotten",
        "services/distribution_deployer/lists_store.py",
        "WHERE distribution_id IS NULL AND change_time < kit_now() - $1::interval\n",
        "WHERE change_time < kit_now() - $1::interval\n",
        [_DISTRIBUTED + "test_lists_are_forgotten_when_no_distribution_used_them_for_long"],
    ),
    Mutant(
        "lists: an owner is counted by one call at a time",
        "services/distribution_deployer/lists_store.py",
        "    await connection.execute(_LOCK_OWNER, owner)\n",
        "",
        [_DISTRIBUTED + "test_an_owner_who_is_counted_is_not_counted_again_meanwhile"],
    ),
    Mutant(
        "lists: recipients that no distribution uses are bounded",
        "services/distribution_deployer/lists.py",
        "            await self._check_room(tx, found, len(recipients))\n",
        "",
        [_UNUSED + "test_a_user_has_so_many_recipients_that_no_distribution_uses"],
    ),
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
        "edge: a query that names a field of the path or the body",
        "mesh/edge/request_rules.lua",
        'if asked == field or starts(asked, field .. ".") or starts(field, asked .. ".") then',
        "if false then",
        [_REQUESTS + "test_a_query_makes_no_transfer_another_one"],
    ),
    Mutant(
        "edge: a field of a query in another spelling",
        "mesh/edge/request_rules.lua",
        'name = gsub(name, "%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)',
        "name = previous",
        [_REQUESTS + "test_no_spelling_of_a_field_hides_it"],
    ),
    Mutant(
        "edge: a field of a body that the method does not know",
        "mesh/edge/request_rules.lua",
        "if not below then return nil, path .. name, fields end",
        "if not below then below = 0 end",
        [_REQUESTS + "test_an_approval_with_a_name_that_nobody_knows_is_not_made"],
    ),
    Mutant(
        "edge: a header with an underscore",
        "mesh/edge/request_rules.lua",
        'if find(name, "_", 1, true) then',
        "if false then",
        [_REQUESTS + "test_a_header_with_an_underscore_is_refused_in_the_shape_of_errors"],
    ),
    Mutant(
        "edge: a preflight of an origin that is not listed",
        "mesh/edge/request_rules.lua",
        "if preflight then return",
        "if false then return",
        [_REQUESTS + "test_a_preflight_of_an_origin_that_is_not_listed_says_where_the_list_is"],
    ),
    Mutant(
        "edge: the scheme of a token in any case",
        "mesh/edge/request_rules.lua",
        'if scheme and lower(scheme) == "bearer" and',
        "if false and",
        [_REQUESTS + "test_the_scheme_of_a_token_is_known_in_any_case"],
    ),
    Mutant(
        "edge: a deadline that a replica cannot read",
        "mesh/edge/request_rules.lua",
        'headers:remove("grpc-timeout")',
        'headers:get("grpc-timeout")',
        [_DEADLINES + "test_a_streams_deadline_that_cannot_be_read_is_the_default"],
    ),
    Mutant(
        "edge: caches keep origins apart",
        "mesh/edge/error_shape.lua",
        'headers:add("vary", "Origin")',
        'headers:get("vary")',
        [_REQUESTS + "test_a_cache_keeps_the_answers_of_origins_apart"],
    ),
    Mutant(
        "edge: a caller's trace is not continued",
        "mesh/templates/listeners.yaml.j2",
        "                    - remove: {{ theirs }}\n",
        "",
        [_TRACES + "test_a_callers_trace_is_linked_to_ours_when_w3c_can_read_it"],
    ),
    Mutant(
        "edge: nobody outside writes the link to a trace",
        "mesh/render.py",
        "*wire.CALLERS_TRACE.values(),",
        "",
        [_TRACES + "test_nobody_outside_writes_the_link_itself"],
    ),
    Mutant(
        "trace: a version that there may not be",
        "observability/tracing.py",
        "parts[1] == _INVALID_VERSION or ",
        "",
        [_CALLERS + "test_any_other_traceparent_is_none"],
    ),
    Mutant(
        "stream: ended in words at its caller's deadline",
        "mesh/templates/_action.yaml.j2",
        '{% if method.kind.value == "unary" %}\n      max_stream_duration',
        "{% if true %}\n      max_stream_duration",
        [_DEADLINES + "test_a_stream_that_its_caller_gives_up_on_ends_as_that"],
    ),
    Mutant(
        "request: of two keys none counts",
        "services/kit/storage/idempotency.py",
        "if len(values) == 1 and _BARE",
        "if _BARE",
        [_CALLERS + "test_what_is_not_one_key_is_refused"],
    ),
    Mutant(
        "request: a principal has one spelling",
        "services/kit/serving/handler.py",
        "spelling.lower_principals(request, raw)",
        "del raw",
        [_REQUESTS + "test_a_principal_is_known_in_capitals"],
    ),
    Mutant(
        "ledger: blocks of one that is not there",
        "services/ledger/service.py",
        "if not blocks and await",
        "if False and await",
        [_REQUESTS + "test_what_belongs_to_something_absent_is_not_found"],
    ),
    Mutant(
        "refund: a request that was taken back holds its settlement up",
        "services/invoice_storage/store.py",
        "kit_require(state = {RefundState.PENDING:d}, $7)",
        "(state = {RefundState.PENDING:d} OR $7::text IS NULL)",
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
        "WHERE id = $1 AND kit_require(state = {PaymentState.COMPLETED:d}, $4)",
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
        "ledger: a posting that cannot be written fails alone",
        "services/ledger/posting.py",
        "            if len(batch) == 1:\n",
        "            if batch:\n",
        [
            _BLOCKS + "test_a_posting_that_the_database_does_not_take_spoils_nobody",
            _BLOCKS + "test_each_of_a_spoiled_batch_is_told_its_own",
        ],
    ),
    Mutant(
        "ledger: what was read without a lock is written if nothing changed",
        "services/ledger/store.py",
        "kit_require(xmin = $5 AND NOT {_CLOSED}, $6)",
        "$5::xid IS NOT NULL AND $6::text IS NOT NULL",
        [
            _BLOCKS + "test_nothing_is_written_on_a_ledger_that_was_closed_meanwhile",
            _BLOCKS + "test_a_book_of_before_somebody_else_posted_is_not_written",
            _BLOCKS + "test_a_handover_that_burned_nothing_is_a_change_too",
        ],
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
        "services/kit/money/transfers.py",
        "        found = await self.find(ledger, memo, check)\n",
        "        found = None\n",
        [_PAYMENTS + "test_a_charge_that_is_resumed_after_two_days_finds_its_block"],
    ),
    Mutant(
        "charge: only what is definite ends it",
        "services/invoice_storage/charges.py",
        "            if not error.definite:\n",
        "            if error.outcome_unknown:\n",
        [_PAYMENTS + "test_a_refusal_of_the_moment_leaves_the_charge_in_flight"],
    ),
    Mutant(
        "charge: what was refused is never made",
        "services/ledger/service.py",
        "            if block is None:\n",
        "            if block == -1:\n",
        [_PAYMENTS + "test_a_late_call_for_a_charge_that_was_refused_moves_nothing"],
    ),
    Mutant(
        "charge: ends once",
        "services/invoice_storage/store.py",
        "WHERE id = $1 AND kit_require(state = {PaymentState.IN_FLIGHT:d}, $3)",
        "WHERE id = $1 AND $3::text IS NOT NULL",
        [_MONEY + "test_a_charge_ends_once"],
    ),
    Mutant(
        "charge: failed under the time that was given up",
        "services/invoice_storage/store.py",
        "kit_require(state = {PaymentState.IN_FLIGHT:d} AND created_at_ns = $3, $4)",
        "kit_require(state = {PaymentState.IN_FLIGHT:d} OR created_at_ns = $3, $4)",
        [_MONEY + "test_a_charge_that_is_tried_under_another_time_has_not_failed"],
    ),
    Mutant(
        "charge, refund: compare-and-set of a time that was too old",
        "services/invoice_storage/store.py",
        "CASE WHEN created_at_ns = $2\n",
        "CASE WHEN $2::bigint IS NOT NULL\n",
        [_MONEY + "test_two_renewals_of_one_time_are_one"],
    ),
    Mutant(
        "charge: an approval is none",
        "services/kit/money/transfers.py",
        "        if block.operation == ledger_pb2.OPERATION_APPROVE:\n",
        "        if block.operation == ledger_pb2.OPERATION_UNSPECIFIED:\n",
        [_PAYMENTS + "test_an_approval_that_carries_the_memo_of_a_charge_is_none"],
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
        "WHERE id = $1 AND kit_require(state <> {State.ABANDONED:d}, $4)",
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
        "journal: one replica at a time admits",
        "services/kit/journal/postgres.py",
        "            await connection.execute(_ADMITTING, name)\n",
        "",
        [_JOURNAL + "test_whoever_admits_only_so_many_run_and_who_waits_longest_is_next"],
    ),
    Mutant(
        "journal: an owner has a share of the places",
        "services/kit/journal/postgres.py",
        "<= $2\n            AND coalesce(begun, 0) + turn <=",
        "<= $2 + 100\n            AND coalesce(begun, 0) + turn <= 100 +",
        [
            _JOURNAL
            + "test_an_owner_has_a_share_of_the_places_and_the_next_is_whoever_has_begun_least",
            _JOURNAL + "test_those_that_wait_for_an_attempt_are_bounded_in_all_and_for_each_owner",
        ],
    ),
    Mutant(
        "journal: a share is for attempts as well",
        "services/kit/journal/postgres.py",
        "        ) <= $2 AS fits\n",
        "        ) <= $2 + 100 AS fits\n",
        [_JOURNAL + "test_a_share_is_for_what_is_due_as_well"],
    ),
    Mutant(
        "journal: those that wait for an attempt are bounded",
        "services/kit/journal/postgres.py",
        "least(room - (SELECT count(*) FROM resumed), startable)",
        "least(room - (SELECT count(*) FROM resumed), startable + 1000)",
        [_JOURNAL + "test_those_that_wait_for_an_attempt_are_bounded_in_all_and_for_each_owner"],
    ),
    Mutant(
        "journal: an attempt that is due goes before new pipelines",
        "services/kit/journal/postgres.py",
        "    LIMIT (SELECT greatest(0, room) FROM total)),\n",
        "    LIMIT (SELECT greatest(0, room - (SELECT count(*) FROM in_order)) FROM total)),\n",
        [
            _JOURNAL
            + "test_what_waits_for_its_next_attempt_holds_no_place_and_is_next_when_it_is_due"
        ],
    ),
    Mutant(
        "journal: what holds no place is not claimed past the queue",
        "services/kit/journal/postgres.py",
        "    WHERE state = {_RUNNING} AND holds_place AND wake_time <= clock_timestamp()\n",
        "    WHERE state = {_RUNNING} AND wake_time <= clock_timestamp()\n",
        [
            _JOURNAL
            + "test_what_waits_for_its_next_attempt_holds_no_place_and_is_next_when_it_is_due"
        ],
    ),
    Mutant(
        "pipeline: one that waits for its next attempt gives its place back",
        "services/kit/journal/engine.py",
        "        return Sleep(pause, keeps_place=not work.queued)\n",
        "        return Sleep(pause)\n",
        [_JOURNAL + "test_one_that_waits_for_its_next_attempt_lets_others_work"],
    ),
    Mutant(
        "pipeline: a slow attempt is not repeated in place",
        "services/kit/journal/engine.py",
        "            late = time.monotonic() - began + delay > _PATIENCE_SECONDS\n",
        "            late = time.monotonic() - began >= 0 and delay > _PATIENCE_SECONDS\n",
        [_JOURNAL + "test_an_attempt_that_takes_long_is_followed_by_a_pause_without_a_place"],
    ),
    Mutant(
        "errors: what is too large stays so",
        "contract/errors.py",
        "        return (of_the_call or self.reason in _OF_THE_CALL) and not self.retriable\n",
        "        return of_the_call and not self.retriable\n",
        ["tests/unit/test_errors.py::test_what_is_too_large_stays_so_whatever_its_code"],
    ),
    Mutant(
        "contract: what is carried inwards has room",
        "contract/loader.py",
        "    problems.extend(_without_room(reader, built))\n",
        "",
        [_ROOM + "test_our_contract_is_refused_where_a_launch_fits_and_its_part_does_not"],
    ),
    Mutant(
        "launches: one user holds a share of the places",
        "services/backend/launches/domain.py",
        "    return min(limit, chosen or max(1, limit // _SHARES))\n",
        "    return min(limit, chosen or max(limit, limit // _SHARES))\n",
        [_LAUNCH_RULES + "test_a_user_has_the_share_that_is_chosen_or_a_tenth"],
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
        "services/kit/storage/idempotency.py",
        '    if row["body_hash"] != key.body_hash:\n',
        '    if not row["body_hash"]:\n',
        [_IDEMPOTENCY + "test_another_body_under_the_same_id_is_refused"],
    ),
    Mutant(
        "starts: children inherit a list and nothing else",
        "mesh/inherited.py",
        "for name, value in environ.items() if name in kind.names}",
        "for name, value in environ.items()}",
        (f"{_UNIT}test_inherited.py::test_no_child_inherits_what_a_library_reads",),
    ),
    Mutant(
        "starts: variables that nothing reads are named",
        "mesh/inherited.py",
        'if name.startswith((PREFIX, "OTEL_")) and name not in read:',
        'if name.startswith("NOTHING") and name not in read:',
        (f"{_UNIT}test_inherited.py::test_what_nothing_reads_is_named",),
    ),
    Mutant(
        "starts: an option of a database URL is kept or refused",
        "mesh/database_url.py",
        "if refused := sorted(kept.keys() & {*_IMPOSSIBLE, *_SATISFIED}):",
        "if refused := sorted(kept.keys() & set()):",
        (f"{_UNIT}test_database_url.py::test_what_our_client_cannot_do_is_refused_by_name",),
    ),
    Mutant(
        "starts: no part of a database password is told",
        "mesh/database_url.py",
        'and "@" not in login + parts.path',
        "and True",
        (f"{_UNIT}test_database_url.py::test_no_part_of_a_password_is_told",),
    ),
    Mutant(
        "starts: edge and metrics have a port each",
        "mesh/topology.py",
        "if shared and edge.port == seen.metrics_port:",
        "if shared and edge.port == -seen.metrics_port:",
        (f"{_UNIT}test_topology.py::test_one_port_for_two_is_refused",),
    ),
    Mutant(
        "starts: connections that listen are counted",
        "mesh/topology.py",
        "service.replicas * (self.database.pool + service.listeners)",
        "service.replicas * self.database.pool",
        (f"{_UNIT}test_topology.py::test_connections_of_listeners_are_counted",),
    ),
    Mutant(
        "starts: too few open files are refused",
        "mesh/descriptors.py",
        "if room < min(wanted, _FEWEST) or",
        "if",
        (f"{_UNIT}test_descriptors.py::test_what_cannot_be_is_refused_with_its_key",),
    ),
    Mutant(
        "starts: data whose run directory is gone are not taken unasked",
        "mesh/rundir.py",
        "gone = apart and not self.secrets_file.exists()",
        "gone = apart and self.secrets_file.is_dir()",
        (f"{_UNIT}test_kept_files.py::test_data_of_a_lost_run_directory_are_named",),
    ),
    Mutant(
        "starts: generated code is of these protos",
        "mesh/main.py",
        "newer | sources ^ compiled",
        "newer",
        (f"{_UNIT}test_main.py::test_a_proto_that_went_is_told",),
    ),
    Mutant(
        "starts: headers for a collector can be sent",
        "observability/receiver.py",
        "if len(headers) != len(given) or not sound:",
        "if len(headers) != len(given):",
        (f"{_UNIT}test_receiver.py::test_what_cannot_be_is_refused_in_words",),
    ),
    Mutant(
        "request id: one user's alone",
        "services/kit/serving/call.py",
        "            self.principal,\n            self.method.full_name,\n",
        '            "",\n            self.method.full_name,\n',
        [_IDEMPOTENCY + "test_an_id_belongs_to_one_user_and_one_method"],
    ),
    Mutant(
        "ownership: a row is its owner's",
        "services/kit/serving/call.py",
        "if row is None or not (self.permitted or self.principal in (row.owner, *to)):",
        "if row is None:",
        [_PLATFORM + "test_a_row_is_its_owners_and_whose_permission_says_so"],
    ),
    Mutant(
        "ownership: a handler that forgets fails closed",
        "services/kit/serving/call.py",
        "if self.method.audience.owner and self.identity.from_outside and not self._owner_checked:",
        "if self.method.audience.owner and not self.identity.from_outside:",
        [_PLATFORM + "test_a_handler_that_forgets_the_owner_fails_closed"],
    ),
    Mutant(
        "lists: a page ends by its bytes",
        "services/kit/answering/paging.py",
        "if room < 0 and shown:",
        "if room < -(10**9) and shown:",
        [_PAGES + "test_a_page_ends_by_bytes_and_has_something_on_it"],
    ),
    Mutant(
        "lists: a character may be six in JSON",
        "services/kit/serving/answers.py",
        "_ESCAPE: Final = 5",
        "_ESCAPE: Final = 0",
        [_PAGES + "test_a_page_ends_by_bytes_and_has_something_on_it"],
    ),
    Mutant(
        "lists: what is large is empty",
        "services/kit/serving/summaries.py",
        "    for name in large:",
        "    for name in large[:0]:",
        [
            _PAGES + "test_a_page_shows_summaries",
            _SIZES + "test_the_largest_page_of_every_list_fits_and_carries_summaries",
        ],
    ),
    Mutant(
        "answers: none that is larger than a client takes",
        "services/kit/serving/answers.py",
        "if len(answer) > LARGEST_ANSWER.wire:",
        "if len(answer) > 2 * LARGEST_ANSWER.wire:",
        [_SIZES + "test_an_answer_past_every_bound_is_refused_before_it_is_sent"],
    ),
    Mutant(
        "answers: none that is too large as JSON",
        "services/kit/serving/answers.py",
        "if written > LARGEST_ANSWER.json:",
        "if written > 8 * LARGEST_ANSWER.json:",
        [_SIZES + "test_an_answer_past_every_bound_is_refused_before_it_is_sent"],
    ),
    Mutant(
        "answers: the contract bounds each",
        "contract/loader.py",
        "    if not proven:",
        "    if proven:",
        [_SIZES + "test_an_answer_without_a_bound_is_refused_by_field"],
    ),
    Mutant(
        "edge: an answer that is too large is not the request's fault",
        "mesh/edge/local_replies.py",
        "response.code_details.contains('response_buffer_size_limit')",
        "response.code_details.contains('response_size_limit')",
        [_REPLIES + "test_an_answer_that_is_too_large_is_not_taken_for_a_request_that_is"],
    ),
    Mutant(
        "services: only those that the contract names",
        "services/kit/serving/authorization.py",
        "if not audience.admits_service(identity.caller):",
        "if not identity.caller:",
        [_PLATFORM + "test_only_the_services_that_the_contract_names_call_a_method"],
    ),
    Mutant(
        "identity: a service acts for a user only where it may",
        "services/kit/serving/identity.py",
        "if method.on_behalf_of else",
        "if method.path else",
        [_PLATFORM + "test_a_service_acts_for_a_user_only_where_the_contract_says_so"],
    ),
    Mutant(
        "emergency stop: nothing changes",
        "services/kit/replica/platform.py",
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
        "roles: nobody acts upon a person who may do more",
        "gateway/domain.py",
        "    more = sorted(other - actor)\n",
        "    more = sorted(other - actor - other)\n",
        [
            _SIGN_IN + "test_nobody_acts_upon_a_person_who_may_do_more",
            _UPON + "test_nobody_acts_upon_a_person_who_may_do_more",
        ],
    ),
    Mutant(
        "roles: the actor's are those of now",
        "gateway/service.py",
        "own, theirs = await store.roles(tx, call.principal), await store.roles(tx, target)",
        "own, theirs = call.identity.roles, await store.roles(tx, target)",
        [_UPON + "test_what_the_actor_holds_is_read_when_they_act_and_not_from_their_token"],
    ),
    Mutant(
        "roles: none for nobody",
        "contract/principal.py",
        "return is_principal(text) and text not in (ANONYMOUS, MANAGEMENT)",
        "return is_principal(text)",
        ["tests/unit/test_principal.py::test_nobody_is_no_person"],
    ),
    Mutant(
        "emergency stop: a new role speaks for who gave it",
        "services/kit/roles/standing_rules.py",
        "        if held[0].grant_time + PROBATION <= now:\n",
        "        if held[0].grant_time <= now:\n",
        [
            _TWO + "test_a_role_speaks_for_who_gave_it_until_it_is_a_day_old",
            _TWO_PEOPLE + "test_one_person_is_not_two_however_many_keys_they_have",
        ],
    ),
    Mutant(
        "emergency stop: a role from after it began speaks for nobody",
        "services/kit/roles/standing_rules.py",
        "if since is None or grant.grant_time <= since:",
        "if True:",
        [_TWO + "test_a_role_speaks_for_who_gave_it_until_it_is_a_day_old"],
    ),
    Mutant(
        "emergency stop: who made others is one with them",
        "services/backend/release_rules.py",
        "len({one.origin for one in standings.values() if one.origin})",
        "len({who for who, one in standings.items() if one.origin})",
        [_TWO + "test_a_stop_ends_when_two_have_asked_who_speak_for_two"],
    ),
    Mutant(
        "emergency stop: who may not release it any more does not count",
        "services/backend/restrictions.py",
        "if wish.principal == caller or people.may(wish.principal, _RELEASES)",
        "if wish.principal == caller or wish",
        [_TWO_PEOPLE + "test_who_may_not_release_it_any_more_does_not_count"],
    ),
    Mutant(
        "lock: whoever benefits does not unlock it",
        "services/lock_deployer/domain.py",
        "    if actor in having:\n",
        "    if actor in having and not standing.origin:\n",
        [_TWO + "test_whoever_benefits_from_a_lock_leaves_it_to_another"],
    ),
    Mutant(
        "lock: nor does whom they made",
        "services/lock_deployer/domain.py",
        "if administrators and (not standing.origin or standing.origin in having):",
        "if administrators and not standing:",
        [_TWO + "test_whoever_benefits_from_a_lock_leaves_it_to_another"],
    ),
    Mutant(
        "sign-in: at our own origins alone",
        "gateway/domain.py",
        "    if origin not in own:\n",
        "    if not own:\n",
        [_SIGN_IN + "test_people_sign_in_at_our_own_origins_alone"],
    ),
    Mutant(
        "sign-in: a client signs for where it is connected",
        "mesh/cli/client.py",
        "self._key.sign(_text(self._origin, principal.of_public_key(public), challenge))",
        'self._key.sign(base64.b64decode(challenge["message"]))',
        [_SIGNED_IN + "test_whoever_passes_a_challenge_on_gets_no_session_and_no_signature"],
    ),
    Mutant(
        "sign-in: a text of somebody's choice is no audience",
        "contract/sign_in.py",
        "if not re.fullmatch(AUDIENCE_PATTERN, audience):",
        "if not audience:",
        [_SIGN_IN + "test_a_text_of_somebody_s_choice_is_no_audience"],
    ),
    Mutant(
        "sign-in: each installation has its own audience",
        "gateway/migrations/0002_audience.sql",
        "('icto-' || gen_random_uuid())",
        "('icto')",
        [_SIGNED_IN + "test_a_token_of_one_installation_is_none_at_another"],
    ),
    Mutant(
        "sign-in: a key that somebody holds",
        "gateway/domain.py",
        "if not crypto_core_ed25519_is_valid_point(public_key):",
        "if not public_key:",
        [_SIGN_IN + "test_a_key_that_nobody_holds_or_that_has_two_forms_is_none"],
    ),
    Mutant(
        "sign-in: a signature has no point of small order",
        "gateway/domain.py",
        "if not crypto_core_ed25519_is_valid_point(signature[:_POINT_BYTES]):",
        "if not signature:",
        [_SIGN_IN + "test_a_signature_with_such_a_point_is_none"],
    ),
    Mutant(
        "distribution: what is private is not there for strangers",
        "services/distribution_deployer/visibility.py",
        "if found is None or not await self._is_visible(found, call):",
        "if found is None:",
        [_PRIVATE + "test_absent_and_invisible_are_told_alike_by_every_method"],
    ),
    Mutant(
        "distribution: a proof is its recipient's",
        "services/distribution_deployer/lists.py",
        "if not theirs and not await list_is_public(self._database, found.distribution_id):",
        "if not theirs and not found.root:",
        [_PRIVATE + "test_a_proof_is_given_to_its_recipient_alone_unless_it_is_public"],
    ),
    Mutant(
        "edge: a body is JSON",
        "mesh/edge/media_type.lua",
        "if has_body(handle, headers) then",
        "if false then",
        [
            _BODIES + "test_a_body_that_is_not_json_is_refused_before_it_is_read",
            _BODIES + "test_a_foreign_form_plants_no_cookie",
        ],
    ),
    Mutant(
        "edge: a token is kept by no cache",
        "gateway/service.py",
        '        call.headers.append(("cache-control", "no-store"))\n',
        "",
        [_BODIES + "test_what_holds_a_token_is_kept_by_no_cache"],
    ),
    Mutant(
        "features: a flag that is off blocks its methods",
        "services/kit/replica/platform.py",
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
        "services/distribution_deployer/claim_rules.py",
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
        "services/distribution_deployer/claim_rules.py",
        "if self.held or self.allocation.closed:",
        "if self.held:",
        [_SHARES + "test_closed_and_paused_holdings_give_nothing"],
    ),
    Mutant(
        "distribution: a pause and a deadline hold claims",
        "services/distribution_deployer/claim_rules.py",
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
        "WHEN distributions.state IN ({State.CREATED:d}, {State.FAILED:d})",
        "WHEN distributions.state IN ({State.CREATED:d}, {State.ACTIVE:d}, {State.FAILED:d})",
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
        "    if target not in _next_states(distribution.state):\n",
        "    if distribution.state is target:\n",
        [_SHARES + "test_only_legal_moves_are_made"],
    ),
    Mutant(
        "distribution: two claims of one participant follow one another",
        "services/distribution_deployer/store.py",
        '_LOCK_ALLOCATIONS: Final = f"{_ALLOCATIONS} FOR UPDATE"',
        '_LOCK_ALLOCATIONS: Final = f"{_ALLOCATIONS}"',
        [_DISTRIBUTED + "test_claims_at_once_take_what_there_is_and_no_more"],
    ),
    Mutant(
        "distribution: a cancellation is as late as the claims that it waited for",
        "services/distribution_deployer/store.py",
        "    checks, kit_clock_now() AS now, ARRAY(",
        "    checks, kit_now() AS now, ARRAY(",
        [_DISTRIBUTED + "test_a_cancellation_is_not_before_a_claim_that_it_waited_for"],
    ),
    Mutant(
        "distribution: a pause of a category ends with it",
        "services/distribution_deployer/domain.py",
        "return self.paused if self.state in OPEN else frozenset()",
        "return self.paused",
        [_SHARES + "test_a_pause_of_a_category_ends_with_the_distribution"],
    ),
    Mutant(
        "distribution: a list allocates to nobody what the fee would take",
        "services/distribution_deployer/lists_store.py",
        "ELSE least(smallest, $4) END",
        "ELSE $4 END",
        [_DISTRIBUTED + "test_a_list_knows_its_smallest_amount"],
    ),
    Mutant(
        "lock: a claim is bounded by what is unlocked",
        "services/lock_deployer/domain.py",
        "    if asked is not None and asked > open_now:\n",
        "    if asked is not None and asked > 2 * open_now:\n",
        [_LOCKS + "test_a_claim_that_cannot_be_paid_is_refused"],
    ),
    Mutant(
        "lock: active once, and never when it was given up",
        "services/lock_deployer/store.py",
        "kit_require(state = {State.FUNDED:d}, $4)",
        "$4::text IS NOT NULL",
        [
            _LOCKED + "test_a_lock_is_activated_once",
            _LOCKED + "test_a_lock_that_is_given_up_meanwhile_is_not_activated",
        ],
    ),
    Mutant(
        "distribution: open once, and never when it was given up",
        "services/distribution_deployer/store.py",
        "kit_require(state = {State.CREATED:d}, $7)",
        "$7::text IS NOT NULL",
        [
            _DISTRIBUTED + "test_a_distribution_is_opened_once",
            _DISTRIBUTED + "test_a_distribution_that_is_given_up_meanwhile_is_not_opened",
        ],
    ),
    Mutant(
        "lock: two claims follow one another",
        "services/lock_deployer/store.py",
        "(SELECT * FROM locks WHERE id = $1 FOR UPDATE)",
        "(SELECT * FROM locks WHERE id = $1)",
        [
            _LOCKED + "test_claims_at_once_take_what_there_is_and_no_more",
            _LOCKED + "test_who_waits_for_a_lock_looks_at_it_when_they_have_it",
        ],
    ),
    Mutant(
        "lock: a share is bounded in its row, too",
        "services/lock_deployer/schema.sql",
        "CHECK (claimed <= amount)",
        "CHECK (claimed >= 0)",
        [_LOCKED + "test_more_than_a_share_cannot_even_be_written"],
    ),
    Mutant(
        "lock: a revocation is as late as the claims that it waited for",
        "services/lock_deployer/store.py",
        "kit_clock_now() AS seen_time",
        "kit_now() AS seen_time",
        [_LOCKED + "test_a_revocation_is_not_before_a_claim_that_it_waited_for"],
    ),
    Mutant(
        "vesting: a claim leaves nothing that the fee would take",
        "services/kit/vesting/vesting_rules.py",
        "    if amount > fee and not 0 < left - amount <= fee:\n",
        "    if amount > fee:\n",
        [_VESTED + "test_a_claim_that_would_strand_a_rest_is_told_another"],
    ),
    Mutant(
        "payout: a fresh time is kept by whoever knows the one before",
        "services/kit/payouts/payouts.py",
        "WHERE id = $1 AND created_at_ns = $2\n",
        "WHERE id = $1 AND $2::bigint IS NOT NULL\n",
        [_TIMES + "test_a_replica_that_was_frozen_while_another_paid_does_not_pay_again"],
    ),
    Mutant(
        "merkle: a leaf is bound to its list",
        "services/distribution_deployer/merkle_rules.py",
        "                list_id.bytes,\n",
        "",
        [_MERKLE + "test_a_proof_proves_no_other_amount_recipient_category_or_list"],
    ),
    Mutant(
        "merkle: a proof leads to the root",
        "services/distribution_deployer/merkle_rules.py",
        "    return node == root\n",
        "    return node == root or len(proof) > 0\n",
        [
            _MERKLE + "test_a_proof_proves_no_other_leaf",
            _MERKLE + "test_a_spoilt_short_or_long_proof_proves_nothing",
        ],
    ),
    Mutant(
        "launch: the supply covers its parts",
        "services/backend/launches/domain.py",
        "    if rest < 0:\n",
        "    if rest < -supply:\n",
        [_LAUNCH_RULES + "test_a_supply_covers_its_parts_and_a_fee_for_each"],
    ),
    Mutant(
        "launch: no remainder that nobody can move",
        "services/backend/launches/domain.py",
        "    if 0 < rest <= fee:\n",
        "    if 0 < rest < fee:\n",
        [_LAUNCH_RULES + "test_a_supply_covers_its_parts_and_a_fee_for_each"],
    ),
    Mutant(
        "launch: only tokens of one's own",
        "services/backend/launches/domain.py",
        "    if owner != controller:\n",
        "    if not owner:\n",
        [
            _LAUNCH_RULES + "test_only_its_owner_launches_a_token",
            _LAUNCHES + "test_a_token_that_exists_is_launched_by_allowance_of_its_owner",
        ],
    ),
    Mutant(
        "launch: an open one keeps its escrow",
        "services/backend/launches/domain.py",
        "    if not launch.ended:\n",
        "    if not launch.owner:\n",
        [
            _LAUNCH_RULES + "test_an_escrow_that_nobody_uses_may_be_withdrawn_and_drawn_on",
            _STOPPING + "test_an_open_launch_keeps_its_escrow",
        ],
    ),
    Mutant(
        "launch: an escrow that is drawn on is busy",
        "services/backend/launches/domain.py",
        "    if launch.drawn_by is not None:\n",
        "    if not launch.owner:\n",
        [
            _LAUNCH_RULES + "test_an_escrow_that_nobody_uses_may_be_withdrawn_and_drawn_on",
            _STOPPING + "test_an_escrow_that_is_drawn_on_is_busy_until_the_later_launch_ends",
        ],
    ),
    Mutant(
        "launch: one withdrawal at a time",
        "services/backend/launches/handlers.py",
        "            domain.check_withdrawable(launch)\n",
        "",
        [_LAUNCHES + "test_the_owner_withdraws_what_lies_in_escrow_once"],
    ),
    Mutant(
        "launch: it mints until its token is handed over",
        "services/token_deployer/ledger_chain.py",
        "            minting = held_minting_account(custodian)\n",
        "            minting = spec.minting_account\n",
        [_LAUNCHES + "test_until_the_ownership_step_supply_and_mint_rights_are_the_launchs"],
    ),
    Mutant(
        "launch: it controls its token until that is handed over",
        "services/token_deployer/ledger_chain.py",
        "controller=custodian.owner if custodian else token.owner",
        "controller=token.owner",
        [_LAUNCHES + "test_until_the_ownership_step_supply_and_mint_rights_are_the_launchs"],
    ),
    Mutant(
        "launch: a part whose tokens may still move is not given up",
        "services/backend/launches/pipeline.py",
        "            if not error.definite:\n",
        "            if error.outcome_unknown:\n",
        [_COMPENSATION + "test_a_part_is_not_given_up_while_its_tokens_may_still_move"],
    ),
    Mutant(
        "pipeline: what cleans up cannot be refused",
        "services/kit/journal/engine.py",
        "error.definite and not step.cleans_up",
        "error.definite",
        [
            _JOURNAL + "test_a_step_that_cleans_up_cannot_be_refused",
            _COMPENSATION + "test_nothing_is_paid_back_unless_it_was_given_up_for_good",
            _COMPENSATION + "test_a_settlement_that_is_refused_is_not_lost",
        ],
    ),
    Mutant(
        "pipeline: the work under an older claim is stopped",
        "services/kit/journal/engine.py",
        "            return False\n        task.cancel()\n",
        "            return False\n",
        [
            _JOURNAL
            + "test_a_replica_that_claims_its_own_pipeline_again_goes_on_with_the_newer_claim"
        ],
    ),
    Mutant(
        "pipeline: the end of older work leaves the newer in its place",
        "services/kit/journal/engine.py",
        "        if now is not None and now[0] is work:\n",
        "        if now is not None:\n",
        [
            _JOURNAL
            + "test_a_replica_that_claims_its_own_pipeline_again_goes_on_with_the_newer_claim"
        ],
    ),
    Mutant(
        "pipeline: a stale claim beside a good one is refused",
        "services/kit/journal/postgres.py",
        "    JOIN fenced USING (pipeline_id, epoch)),\n",
        "    JOIN fenced USING (pipeline_id)),\n",
        [_JOURNAL + "test_a_stale_claim_is_refused_beside_a_good_one_of_the_same_worker"],
    ),
    Mutant(
        "pipeline: waiting for what is away costs no patience",
        "services/kit/journal/engine.py",
        "error is not None and error.code is not Code.UNAVAILABLE",
        "error is not None",
        [_JOURNAL + "test_waiting_for_what_is_away_uses_up_no_patience"],
    ),
    Mutant(
        "pipeline: a cancellation is known before the next step",
        "services/kit/journal/engine.py",
        "        work.cancelled = work.cancelled or cancelled\n",
        "",
        [_JOURNAL + "test_a_cancellation_elsewhere_is_known_before_the_next_step"],
    ),
    Mutant(
        "pipeline: watchers are told of whatever lets it go on",
        "services/kit/journal/postgres.py",
        "            await connection.apply(change_log.appended([change]))\n",
        "",
        [_STOPPING + "test_watchers_learn_of_a_cancellation_and_of_a_retry"],
    ),
    Mutant(
        "launch: whoever stops somebody else's says why",
        "services/backend/launches/handlers.py",
        "if launch.owner != call.principal and not request.justification:",
        "if False:",
        [_STOPPING + "test_whoever_stops_somebody_else_s_launch_says_why"],
    ),
    Mutant(
        "text: one line that shows as itself, in every request",
        "services/kit/serving/validation.py",
        'return f"must not hold U+{ord(character):04X}" if character else ""',
        'return "must not hold U+0000" if character == chr(0) else ""',
        [_TEXTS + "test_no_text_of_any_request_deceives"],
    ),
    Mutant(
        "text: keys and values of maps as well",
        "services/kit/serving/validation.py",
        "            return self._check_of_map(kind, raw=raw)\n",
        "            return None\n",
        [_TEXTS + "test_keys_lists_and_values_of_no_type_are_looked_at_too"],
    ),
    Mutant(
        "text: joiners only within a word",
        "observability/printable.py",
        "return _is_of_a_word(before) and _is_of_a_word(after)",
        "return True",
        ["tests/unit/test_printable.py::test_joiners_and_selectors_out_of_their_place_are_found"],
    ),
    Mutant(
        "terminal: what others wrote is one line",
        "mesh/cli/terminal.py",
        "    return escape(str(value))\n",
        "    return str(value)\n",
        [_TERMINAL + "test_no_command_obeys_what_it_prints"],
    ),
    Mutant(
        "logs: what they quote stays in its line",
        "mesh/logfiles.py",
        'text = escape(f"{text}  [{trace}]" if trace else text)',
        'text = f"{text}  [{trace}]" if trace else text',
        [_TERMINAL + "test_no_command_obeys_what_it_prints"],
    ),
    Mutant(
        "launch: nobody pays where nobody can be asked",
        "mesh/cli/terminal.py",
        "if not yes and not sys.stdin.isatty():",
        "if False:",
        [
            "tests/behaviour/test_launch_cli.py::test_a_launch_pays_nothing_where_nobody_can_be_asked"
        ],
    ),
    Mutant(
        "tables: no width is assumed without a terminal",
        "mesh/cli/terminal.py",
        "width=None if stream.isatty() else _UNBOUNDED,",
        "width=None,",
        [_TERMINAL + "test_a_pipe_cuts_nothing"],
    ),
    Mutant(
        "tables: a row that does not fit becomes a block",
        "mesh/cli/rows.py",
        "if needed > options.max_width:",
        "if needed > _ENDLESS:",
        [_TERMINAL + "test_a_narrow_terminal_cuts_no_id_and_no_state"],
    ),
    Mutant(
        "trace: says what failed",
        "observability/waterfall.py",
        "            if failure:\n",
        "            if failure == '!':\n",
        ["tests/unit/test_waterfall.py::test_what_failed_says_how_in_words"],
    ),
    Mutant(
        "step: names the service that it waits for",
        "services/kit/journal/engine.py",
        'error_service=error.service if isinstance(error, RemoteError) else "",',
        'error_service="",',
        [_JOURNAL + "test_each_try_that_failed_is_logged_once_and_the_service_is_kept"],
    ),
    Mutant(
        "step: logs each attempt that failed",
        "services/kit/journal/engine.py",
        "            _log_failure(step, record)\n",
        "            pass\n",
        [_JOURNAL + "test_each_try_that_failed_is_logged_once_and_the_service_is_kept"],
    ),
    Mutant(
        "url: without userinfo",
        "services/kit/serving/links.py",
        "://(?:(?P<name>",
        "://(?:[^/@]*@)?(?:(?P<name>",
        [_LINKS + "test_what_is_no_such_url_does_not"],
    ),
    Mutant(
        "picture: what its first bytes say",
        "services/kit/serving/links.py",
        'return _IS_A[found["type"]](raw)',
        "return bool(raw)",
        [_LINKS + "test_a_picture_is_what_its_first_bytes_say"],
    ),
    Mutant(
        "deployment: read again when it has ended meanwhile",
        "services/backend/deployments.py",
        "d.id in runs and runs[d.id].state.final",
        "False",
        [_STOPPING + "test_a_deployment_that_is_read_while_it_ends_shows_what_was_delivered"],
    ),
    Mutant(
        "charge: a block counts by its payer and its amount",
        "services/invoice_storage/treasury.py",
        "return (payer.owner, block.amount) == (payment.owner, str(payment.amount))",
        "return bool(payer.owner and payment.owner)",
        [_RULES + "test_a_block_is_a_payment_s_charge_by_its_payer_and_its_amount"],
    ),
    Mutant(
        "charge: what was made after its refusal is not given up",
        "services/invoice_storage/charges.py",
        "        if block is not None:\n            return block\n",
        "",
        [
            _PAYMENTS
            + "test_a_charge_that_another_attempt_made_after_it_was_refused_is_not_given_up"
        ],
    ),
    Mutant(
        "hang: three intervals without an answer, not one",
        "mesh/silence.py",
        ">= HANG_INTERVALS * interval",
        ">= interval",
        [_SILENCE + "test_who_has_not_answered_for_three_intervals_hangs"],
    ),
    Mutant(
        "hang: one replica of a service at a time",
        "mesh/silence.py",
        "        if pulse.service not in taken:\n",
        "        if pulse.service:\n",
        [
            _SILENCE + "test_one_replica_of_a_service_is_ended_at_a_time",
            _SILENCE + "test_nobody_is_ended_while_another_of_the_service_comes_back",
        ],
    ),
    Mutant(
        "hang: nobody is ended while half of all are silent",
        "mesh/silence.py",
        "    if hold is not None and not hold.lifted:\n        return",
        "    if hold is not None and hold.lifted is None:\n        return",
        [
            _SILENCE + "test_of_half_of_all_that_are_silent_at_once_nobody_is_ended",
            _KILLS + "test_hanging_replicas.py::"
            "test_of_replicas_that_all_hang_none_is_ended_and_all_go_on",
        ],
    ),
    Mutant(
        "hang: who answers last of many that were silent has time to",
        "mesh/silence.py",
        "min(_age(pulse), now - counted_from)",
        "_age(pulse)",
        [
            _SILENCE + "test_once_one_of_them_answers_the_others_have_the_time_of_a_hang",
            _SILENCE + "test_when_all_go_on_those_that_answer_last_are_not_ended",
        ],
    ),
    Mutant(
        "hang: waiting for a processor is not silence",
        "mesh/starvation.py",
        "return now - self.began[0] - self.seconds",
        "return now - self.began[0]",
        [
            _KILLS + "test_hanging_replicas.py::"
            "test_a_replica_that_hardly_gets_a_processor_is_left_alone"
        ],
    ),
    Mutant(
        "hang: a wait for a processor that has not ended counts",
        "mesh/starvation.py",
        "min(ended + present, now - start)",
        "min(ended, now - start)",
        ["tests/unit/test_starvation.py::test_a_thread_in_the_queue_waits"],
    ),
    Mutant(
        "hang: waits of a busy hour do not blind the watchdog after it",
        "mesh/watchdog.py",
        "self._last, self._wait = now, Wait.begin(threads, now)",
        "self._last = now",
        ["tests/unit/test_watchdog.py::test_waits_of_a_busy_hour_do_not_stop_the_clock"],
    ),
    Mutant(
        "hang: what the watchdog slept through is not silence",
        "mesh/watchdog.py",
        "min(now - self._last, self._longest)",
        "(now - self._last)",
        ["tests/unit/test_watchdog.py::test_time_that_the_watchdog_slept_through_counts_little"],
    ),
    Mutant(
        "metrics: scrapes that come together share one gathering",
        "mesh/exporter.py",
        "if newest is None or time.monotonic() - newest.taken >= _SHARED_SECONDS:",
        "if newest is None or time.monotonic() - newest.taken >= 0:",
        ["tests/unit/test_exporter.py::test_scrapes_that_come_together_share_one_gathering"],
    ),
    Mutant(
        "metrics: nothing but /metrics and /healthz is answered",
        "mesh/exporter.py",
        'case "/metrics":',
        'case "/metrics" | "/" | "/metrics/":',
        ["tests/unit/test_exporter.py::test_nothing_else_is_answered"],
    ),
    Mutant(
        "deny list: confirmed only once Envoy's file is written",
        "mesh/denylist.py",
        "                self._confirmed.touch()\n            except OSError as error:\n",
        "            except OSError as error:\n                self._confirmed.touch()\n",
        [
            _DENIED + "test_what_cannot_be_written_now_is_written_the_next_time_and_not_"
            "confirmed_before"
        ],
    ),
    Mutant(
        "database: what the driver says when a server dies is translated",
        "services/kit/storage/database.py",
        "    asyncpg.InternalClientError,\n",
        "",
        ["tests/unit/test_database_failures.py::test_a_failure_of_the_database_is_unavailable"],
    ),
    Mutant(
        "logs: a traceback is one record",
        "mesh/tracebacks.py",
        "if self._lines or _BEGINS.match(line):",
        "if self._lines:",
        [
            "tests/unit/test_tracebacks.py::test_a_line_of_json_ends_a_traceback",
            "tests/unit/test_tracebacks.py::test_what_python_says_last_is_one_record",
        ],
    ),
    Mutant(
        "configuration: a silent stream is given up",
        "services/kit/replica/platform.py",
        "async with asyncio.timeout(self._silence):",
        "async with asyncio.timeout(None):",
        [_PLATFORM + "test_a_stream_that_is_silent_is_given_up_for_another"],
    ),
    Mutant(
        "watch: a number beyond the newest is none of ours",
        "services/backend/launches/handlers.py",
        "known if known <= newest else 0",
        "known",
        [_WATCH + "test_a_number_beyond_the_newest_hides_nothing"],
    ),
    Mutant(
        "watch: a browser that knows the end is told 204",
        "services/backend/launches/handlers.py",
        "return over and known == newest, ",
        "return False, ",
        [_WATCH + "test_a_browser_that_knows_the_end_is_told_to_stay_away"],
    ),
    Mutant(
        "streams: a principal's are counted",
        "services/kit/migrations/0002_open_streams.sql",
        "count(*) >= most_of_who",
        "false",
        [
            _STREAMS + "test_streams_of_all_replicas_are_one_number",
            _STREAMS + "test_who_opens_many_at_once_gets_no_more",
        ],
    ),
    Mutant(
        "streams: an address' are counted",
        "services/kit/migrations/0002_open_streams.sql",
        "count(*) >= most_of_place",
        "false",
        [_STREAMS + "test_an_address_is_one_number_whoever_signs_in"],
    ),
    Mutant(
        "streams: two are not let in by one place",
        "services/kit/migrations/0002_open_streams.sql",
        "        WHERE who <> '';\n    IF",
        "        WHERE false;\n    IF",
        [_STREAMS + "test_who_opens_many_at_once_gets_no_more"],
    ),
    Mutant(
        "streams: a replica that is silent holds none",
        "services/kit/migrations/0002_open_streams.sql",
        "WHERE renew_time > now() - silence",
        "WHERE true",
        [_STREAMS + "test_a_replica_that_died_holds_nothing"],
    ),
    Mutant(
        "streams: what ended is struck out",
        "services/kit/serving/open_streams.py",
        "await self._database.execute(_CLOSE, list(ended))",
        "pass",
        [_STREAMS + "test_streams_of_all_replicas_are_one_number"],
    ),
    Mutant(
        "streams: counted here when the database is away",
        "services/kit/serving/open_streams.py",
        "enough = self._enough_here(holder)",
        'enough = ""',
        [_STREAMS + "test_without_the_database_each_replica_counts_its_own"],
    ),
    Mutant(
        "If-Match: a weak tag matches nothing",
        "services/kit/serving/preconditions.py",
        "return any(tag.strip('\"') ==",
        "return any(tag.removeprefix('W/').strip('\"') ==",
        [_CONDITIONS + "test_a_condition_holds_for_the_etag_that_it_names"],
    ),
    Mutant(
        "If-Match: what has no etag matches none",
        "services/kit/serving/handler.py",
        "if condition and self._method.mutates and not self._takes_etag:",
        "if False:",
        [_ETAGS + "test_what_has_no_etag_matches_none"],
    ),
    Mutant(
        "If-Match: compared with what is there",
        "services/backend/projects.py",
        "            call.check_etag(etag(project))\n",
        "            call.check_etag('\"stale\"')\n",
        [_ETAGS + "test_a_change_of_what_was_changed_meanwhile_is_refused"],
    ),
    Mutant(
        "size: what admits much is not hedged",
        "contract/method.py",
        "return self.retry_safety is RetrySafety.SAFE and not self.large",
        "return self.retry_safety is RetrySafety.SAFE",
        [_RENDERED + "test_what_admits_much_is_sent_once_and_counted_by_its_bytes"],
    ),
    Mutant(
        "size: a large read is of class DEPLOY, and sheddable",
        "contract/method_rules.py",
        'if safe and (method.rate_limit, method.criticality) != ("DEPLOY", Criticality.SHEDDABLE):',
        "if False:",
        [_CONTRACT + "test_a_method_that_breaks_one_rule_is_refused_by_method_and_rule"],
    ),
    Mutant(
        "size: a class has bytes for its large methods",
        "contract/method_rules.py",
        "if not bucket.bytes_per_second or bucket.bytes < JSON_FACTOR * method.max_request_bytes:",
        "if False:",
        [_CONTRACT + "test_a_method_that_breaks_one_rule_is_refused_by_method_and_rule"],
    ),
    Mutant(
        "size: bytes are counted as they arrive",
        "mesh/templates/listeners.yaml.j2",
        """                      - {{ principal }}
                    hits_addend: {format: "%BYTES_RECEIVED%"}
""",
        """                      - {{ principal }}
""",
        [_RENDERED + "test_what_admits_much_is_sent_once_and_counted_by_its_bytes"],
    ),
    Mutant(
        "proxies: nobody is trusted who is not named",
        "mesh/topology.py",
        "if network.prefixlen == 0:",
        "if False:",
        [_TOPOLOGY + "test_a_mistake_is_told_by_its_key"],
    ),
    Mutant(
        "proxies: who is none of them is believed nothing",
        "mesh/templates/listeners.yaml.j2",
        '{cidrs: [{{ trusted_proxies|join(", ") }}]}',
        "{cidrs: [{address_prefix: 0.0.0.0, prefix_len: 0}]}",
        [_PROXIES + "test_who_is_no_trusted_proxy_is_who_they_are"],
    ),
    Mutant(
        "ledger: a block says what the fee collector held after it",
        "services/ledger/domain.py",
        "(block.source, block.target, collector)",
        "(block.source, block.target, None)",
        [_BLOCKS + "test_balances_of_the_past_are_what_the_blocks_add_up_to"],
    ),
    Mutant(
        "ledger: chains from before learn what their accounts held",
        "services/ledger/migrations/0002_running_balances.sql",
        "WHERE to_owner IS NOT NULL AND operation <> 5",
        "WHERE false",
        [_BLOCKS + "test_chains_from_before_know_their_past_as_well"],
    ),
    Mutant(
        "watch: what a replica told itself wakes nobody again",
        "services/kit/journal/changes.py",
        "if heard[-1] != self._own:",
        "if heard:",
        [_CHANGES + "test_a_change_wakes_each_watcher_once_here_and_elsewhere"],
    ),
    Mutant(
        "fork server: a fork ends with its supervisor",
        "mesh/fork_server/child.py",
        "    linux.die_with_parent()\n",
        "",
        [_FORKS + "test_nothing_outlives_a_killed_supervisor_that_forks"],
    ),
    Mutant(
        "fork server: a fork has no descriptor of the server's",
        "mesh/fork_server/child.py",
        "    for descriptor in [int",
        "    for descriptor in [] and [int",
        [_FORKS + "test_a_forked_process_is_what_a_spawned_one_is"],
    ),
    Mutant(
        "fork server: code that changed is loaded anew",
        "mesh/fork_server/client.py",
        "before.stands and before.code == code",
        "before.stands",
        [_FORKS + "test_changed_code_gets_a_new_server_and_the_old_one_ends"],
    ),
    Mutant(
        "fork server: a fork loads no code of ours",
        "mesh/fork_server/child.py",
        "    NoMoreCode.install()\n",
        "",
        [_FORKS + "test_a_replica_loads_no_module_of_ours_after_it_was_forked"],
    ),
    Mutant(
        "fork server: orphans of others are collected",
        "mesh/fork_server/adoption.py",
        "        for pid in dead & self._dead:\n",
        "        for pid in ():\n",
        [_FORKS + "test_orphans_of_others_are_taken_off_the_process_table"],
    ),
)
