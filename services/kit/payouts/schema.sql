-- requires: services.kit.journal
-- Money that leaves an account of the service, ordered in the transaction of the act that owes it.
-- A service that pays names this package in its schema.sql:
--     -- requires: services.kit.payouts

CREATE TABLE kit_payouts (
    id                uuid          PRIMARY KEY,
    ledger            text          NOT NULL,
    subaccount        bytea         NOT NULL CHECK (length(subaccount) = 32),
    target_owner      text          NOT NULL,
    target_subaccount bytea         NOT NULL CHECK (length(target_subaccount) = 32),
    amount            numeric(39,0) NOT NULL CHECK (amount > 0),
    fee               numeric(39,0) NOT NULL CHECK (fee >= 0),
    created_at_ns     bigint        NOT NULL,
    block_index       bigint,
    create_time       timestamptz   NOT NULL DEFAULT kit_now()
);
CREATE INDEX kit_payouts_owed ON kit_payouts (create_time) WHERE block_index IS NULL;
COMMENT ON COLUMN kit_payouts.fee IS
    'As the ledger asks for it. When that changes before it is paid, amount and fee stay together '
    'what they were.';
COMMENT ON COLUMN kit_payouts.created_at_ns IS
    'Deduplication time of the transfer. Changes only after its window, when the ledger has no block.';
COMMENT ON COLUMN kit_payouts.block_index IS 'The block that paid it.';
