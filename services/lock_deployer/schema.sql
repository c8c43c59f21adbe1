-- requires: services.kit.payouts
-- Locks, who benefits from them, and what was claimed. A lock's row is locked by whatever changes
-- what it owes, so that claims of one lock follow one another.

CREATE TABLE locks (
    id                uuid          PRIMARY KEY,
    operation         text          NOT NULL UNIQUE,
    payment           text          NOT NULL DEFAULT '',
    owner             text          NOT NULL,
    ledger            text          NOT NULL,
    escrow_owner      text          NOT NULL,
    escrow_subaccount bytea         NOT NULL,
    spec              bytea         NOT NULL,
    fingerprint       bytea         NOT NULL,
    beneficiary_count int           NOT NULL,
    attestors         text[]        NOT NULL,
    total             numeric(39,0) NOT NULL,
    claimed           numeric(39,0) NOT NULL DEFAULT 0,
    returned          numeric(39,0) NOT NULL DEFAULT 0,
    state             smallint      NOT NULL,
    failure           text          NOT NULL DEFAULT '',
    start_time        timestamptz,
    create_time       timestamptz   NOT NULL DEFAULT kit_now(),
    fund_time         timestamptz,
    activate_time     timestamptz,
    revoke_time       timestamptz,
    unlock_time       timestamptz,
    check_time        timestamptz,
    checks            int           NOT NULL DEFAULT 0,
    CHECK (claimed + returned <= total)
);
COMMENT ON COLUMN locks.spec IS 'icto.lock.v1.LockSpec without its beneficiaries.';
COMMENT ON COLUMN locks.fingerprint IS 'Hash of all that CreateLock was asked for.';
COMMENT ON COLUMN locks.state IS
    'icto.lock.v1.LockState. An operation that was given up before anybody heard of it has a row '
    'that says so and nothing else: a tombstone.';
COMMENT ON COLUMN locks.check_time IS
    'When its account is looked at again: its deadline while it waits to be active; later because '
    'a transfer may still arrive. Empty when nothing can.';
CREATE INDEX locks_owner ON locks (owner, id);
CREATE INDEX locks_check ON locks (check_time) WHERE check_time IS NOT NULL;

CREATE TABLE lock_payments (
    payment text PRIMARY KEY,
    work    text NOT NULL
);
COMMENT ON TABLE lock_payments IS
    'Payments that were consumed, and by which launch: its steps share one, others may not (F-19).';

CREATE TABLE lock_shares (
    lock_id     uuid          NOT NULL REFERENCES locks,
    beneficiary text          NOT NULL,
    position    int           NOT NULL,
    amount      numeric(39,0) NOT NULL CHECK (amount > 0),
    schedule    bytea,
    claimed     numeric(39,0) NOT NULL DEFAULT 0 CHECK (claimed <= amount),
    PRIMARY KEY (lock_id, beneficiary)
);
COMMENT ON COLUMN lock_shares.schedule IS
    'icto.vesting.v1.Schedule, where it is not that of the lock.';
CREATE INDEX lock_shares_beneficiary ON lock_shares (beneficiary, lock_id);

CREATE TABLE lock_attestations (
    lock_id     uuid        NOT NULL REFERENCES locks,
    attestor    text        NOT NULL,
    milestone   text        NOT NULL,
    attest_time timestamptz NOT NULL DEFAULT kit_now(),
    PRIMARY KEY (lock_id, attestor, milestone)
);

CREATE TABLE lock_claims (
    id          uuid          PRIMARY KEY,
    lock_id     uuid          NOT NULL REFERENCES locks,
    beneficiary text          NOT NULL,
    amount      numeric(39,0) NOT NULL,
    fee         numeric(39,0) NOT NULL CHECK (fee >= 0 AND fee < amount),
    block_index bigint,
    create_time timestamptz   NOT NULL DEFAULT kit_now(),
    pay_time    timestamptz
);
COMMENT ON TABLE lock_claims IS 'Claims. Each has the id of its payout, and a block once that was made.';
CREATE INDEX lock_claims_lock ON lock_claims (lock_id, id);

CREATE TABLE lock_returns (
    id          uuid          PRIMARY KEY,
    lock_id     uuid          NOT NULL REFERENCES locks,
    amount      numeric(39,0) NOT NULL,
    fee         numeric(39,0) NOT NULL CHECK (fee >= 0 AND fee < amount),
    revoked     boolean       NOT NULL,
    block_index bigint,
    create_time timestamptz   NOT NULL DEFAULT kit_now()
);
COMMENT ON TABLE lock_returns IS
    'What goes back: to the owner when a lock is revoked, else to the escrow. Has the id of its payout.';
-- While one is on its way, the balance of the account says nothing about what is left to return.
CREATE UNIQUE INDEX lock_returns_open ON lock_returns (lock_id) WHERE block_index IS NULL;
