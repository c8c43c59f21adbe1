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

CREATE TABLE allowances (
    ledger_id          uuid          NOT NULL REFERENCES ledgers,
    owner              text          NOT NULL,
    subaccount         bytea         NOT NULL CHECK (length(subaccount) = 32),
    spender_owner      text          NOT NULL,
    spender_subaccount bytea         NOT NULL CHECK (length(spender_subaccount) = 32),
    allowance          numeric(39,0) NOT NULL CHECK (allowance >= 0),
    expire_ns          bigint,
    PRIMARY KEY (ledger_id, owner, subaccount, spender_owner, spender_subaccount)
);

CREATE TABLE closed_ledgers (
    id         uuid        PRIMARY KEY,
    close_time timestamptz NOT NULL DEFAULT kit_now()
);
COMMENT ON TABLE closed_ledgers IS
    'Tombstones, also of ledgers that never were: nothing moves there any more.';

CREATE TABLE blocks (
    ledger_id          uuid          NOT NULL REFERENCES ledgers,
    index              bigint        NOT NULL,
    parent_hash        bytea         NOT NULL,
    hash               bytea         NOT NULL,
    time_ns            bigint        NOT NULL,
    operation          smallint      NOT NULL,
    from_owner         text,
    from_subaccount    bytea,
    to_owner           text,
    to_subaccount      bytea,
    amount             numeric(39,0) NOT NULL,
    fee                numeric(39,0) NOT NULL,
    memo               bytea         NOT NULL,
    created_at_ns      bigint,
    spender_owner      text,
    spender_subaccount bytea,
    expire_ns          bigint,
    PRIMARY KEY (ledger_id, index)
);
-- A balance of the past is today's without the account's own blocks since then.
CREATE INDEX blocks_from ON blocks (ledger_id, from_owner, index) WHERE from_owner IS NOT NULL;
CREATE INDEX blocks_to ON blocks (ledger_id, to_owner, index) WHERE to_owner IS NOT NULL;
CREATE INDEX blocks_memo ON blocks (ledger_id, memo, index) WHERE memo <> '';

CREATE TABLE duplicates (
    ledger_id     uuid   NOT NULL REFERENCES ledgers,
    key           bytea  NOT NULL,
    block_index   bigint,
    created_at_ns bigint NOT NULL,
    PRIMARY KEY (ledger_id, key)
);
COMMENT ON TABLE duplicates IS
    'Transfers that named their time, kept for the deduplication window.';
COMMENT ON COLUMN duplicates.block_index IS 'NULL: given up, and never made.';
CREATE INDEX duplicates_age ON duplicates (created_at_ns);
