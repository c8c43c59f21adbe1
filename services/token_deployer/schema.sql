-- Tokens, from the reservation of their symbol on, and the words by which they are found.

CREATE TABLE tokens (
    id           uuid        PRIMARY KEY,
    operation    text        NOT NULL UNIQUE,
    payment      text        UNIQUE,
    owner        text        NOT NULL,
    display_name text        NOT NULL,
    symbol       text        NOT NULL,
    spec         bytea       NOT NULL,
    state        smallint    NOT NULL,
    failure      text        NOT NULL DEFAULT '',
    retry_count  int         NOT NULL DEFAULT 0,
    cycles_used  bigint      NOT NULL DEFAULT 0,
    create_time  timestamptz NOT NULL DEFAULT kit_now(),
    deploy_time  timestamptz,
    custodian_owner      text,
    custodian_subaccount bytea
);
COMMENT ON COLUMN tokens.custodian_owner IS
    'Who holds the supply and the rights of the owner, until they are handed over.';
COMMENT ON COLUMN tokens.payment IS 'The payment that it consumed; no other token may (F-19).';
COMMENT ON COLUMN tokens.spec IS 'icto.token.v1.TokenSpec with every default filled in.';
COMMENT ON COLUMN tokens.state IS
    'icto.token.v1.TokenState. An operation that was given up before anybody heard of it has a row '
    'that says so and nothing else: a tombstone.';
-- A symbol is taken from its reservation until its deployment is abandoned (state 9).
CREATE UNIQUE INDEX tokens_symbol ON tokens (upper(symbol)) WHERE state <> 9;
CREATE INDEX tokens_owner ON tokens (owner, id);
CREATE INDEX tokens_active ON tokens (id) WHERE state = 5;

CREATE TABLE token_terms (
    term     text COLLATE "C" NOT NULL,
    token_id uuid             NOT NULL REFERENCES tokens,
    PRIMARY KEY (term, token_id)
);
COMMENT ON TABLE token_terms IS 'Lower-case symbol and words of the name of each active token.';
CREATE INDEX token_terms_token ON token_terms (token_id, term);
