-- requires: services.kit.journal
-- Quotes, payments and refunds. An invoice is a view of a payment. A refund's transfer is a pipeline
-- in the journal under the refund's id.

CREATE TABLE quotes (
    id                    uuid          PRIMARY KEY,
    owner                 text          NOT NULL,
    lines                 bytea         NOT NULL,
    total                 numeric(39,0) NOT NULL CHECK (total >= 0),
    discount_basis_points int           NOT NULL,
    ledger                text          NOT NULL,
    ledger_fee            numeric(39,0) NOT NULL,
    price_revision        bigint        NOT NULL,
    used_by               text,
    create_time           timestamptz   NOT NULL DEFAULT kit_now(),
    expire_time           timestamptz   NOT NULL
);
COMMENT ON COLUMN quotes.lines IS 'icto.payment.v1.Quote with its lines only.';
COMMENT ON COLUMN quotes.used_by IS 'The operation that it pays for.';

CREATE TABLE payments (
    id               uuid          PRIMARY KEY,
    owner            text          NOT NULL,
    operation        text          NOT NULL UNIQUE,
    quote_id         uuid          NOT NULL REFERENCES quotes,
    ledger           text          NOT NULL,
    amount           numeric(39,0) NOT NULL CHECK (amount >= 0),
    lines            bytea         NOT NULL,
    state            smallint      NOT NULL,
    created_at_ns    bigint        NOT NULL,
    block_index      bigint,
    delivered_amount numeric(39,0),
    refunded_amount  numeric(39,0),
    failure          text          NOT NULL DEFAULT '',
    create_time      timestamptz   NOT NULL DEFAULT kit_now(),
    charge_time      timestamptz
);
COMMENT ON COLUMN payments.state IS 'icto.payment.v1.PaymentState.';
COMMENT ON COLUMN payments.created_at_ns IS
    'The time that the ledger deduplicates the charge by; the same for every attempt.';
-- A quote pays once; a payment that failed gives its quote back.
CREATE UNIQUE INDEX payments_quote ON payments (quote_id) WHERE state <> 3;
CREATE INDEX payments_owner ON payments (owner, id);

CREATE TABLE refunds (
    id            uuid          PRIMARY KEY,
    payment_id    uuid          NOT NULL REFERENCES payments,
    owner         text          NOT NULL,
    ledger        text          NOT NULL,
    amount        numeric(39,0) NOT NULL CHECK (amount > 0),
    reason        smallint      NOT NULL,
    description   text          NOT NULL,
    state         smallint      NOT NULL,
    problem       text          NOT NULL DEFAULT '',
    decided_by    text          NOT NULL DEFAULT '',
    created_at_ns bigint        NOT NULL,
    block_index   bigint,
    create_time   timestamptz   NOT NULL DEFAULT kit_now(),
    update_time   timestamptz   NOT NULL DEFAULT kit_now()
);
COMMENT ON COLUMN refunds.state IS 'icto.payment.v1.RefundState.';
-- One refund a payment, unless it was rejected or taken back (F-2).
CREATE UNIQUE INDEX refunds_payment ON refunds (payment_id) WHERE state NOT IN (6, 7);
CREATE INDEX refunds_owner ON refunds (owner, id);
CREATE INDEX refunds_open ON refunds (state, id) WHERE state IN (1, 2, 3, 5);
