-- The ledger: one row a token, its balances, its chain of blocks, and what deduplication remembers.
-- Every key begins with the ledger, which is the shard key.

CREATE TABLE ledgers (
    id                 uuid          PRIMARY KEY,
    display_name       text          NOT NULL,
    symbol             text          NOT NULL,
    decimals           smallint      NOT NULL,
    transfer_fee       numeric(39,0) NOT NULL CHECK (transfer_fee >= 0),
    total_supply       numeric(39,0) NOT NULL CHECK (total_supply >= 0),
    minting_owner      text,
    minting_subaccount bytea,
    fee_owner          text,
    fee_subaccount     bytea,
    controller         text          NOT NULL,
    block_count        bigint        NOT NULL,
    tip_hash           bytea         NOT NULL,
    create_time        timestamptz   NOT NULL DEFAULT kit_now()
);

CREATE TABLE balances (
    ledger_id  uuid          NOT NULL REFERENCES ledgers,
    owner      text          NOT NULL,
    subaccount bytea         NOT NULL CHECK (length(subaccount) = 32),
    balance    numeric(39,0) NOT NULL CHECK (balance >= 0),
    PRIMARY KEY (ledger_id, owner, subaccount)
);

CREATE TABLE blocks (
    ledger_id       uuid          NOT NULL REFERENCES ledgers,
    index           bigint        NOT NULL,
    parent_hash     bytea         NOT NULL,
    hash            bytea         NOT NULL,
    time_ns         bigint        NOT NULL,
    operation       smallint      NOT NULL,
    from_owner      text,
    from_subaccount bytea,
    to_owner        text,
    to_subaccount   bytea,
    amount          numeric(39,0) NOT NULL,
    fee             numeric(39,0) NOT NULL,
    memo            bytea         NOT NULL,
    created_at_ns   bigint,
    PRIMARY KEY (ledger_id, index)
);

CREATE TABLE duplicates (
    ledger_id     uuid   NOT NULL REFERENCES ledgers,
    key           bytea  NOT NULL,
    block_index   bigint NOT NULL,
    created_at_ns bigint NOT NULL,
    PRIMARY KEY (ledger_id, key)
);
COMMENT ON TABLE duplicates IS
    'Transfers that named their time, kept for the deduplication window.';
CREATE INDEX duplicates_age ON duplicates (created_at_ns);
