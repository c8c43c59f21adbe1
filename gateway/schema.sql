-- Sign-in: challenges, signing keys, roles, bootstrap keys. Shared by the replicas of the gateway.

CREATE TABLE challenges (
    id          uuid        PRIMARY KEY,
    public_key  bytea       NOT NULL,
    message     bytea       NOT NULL,
    expire_time timestamptz NOT NULL
);
CREATE INDEX challenges_age ON challenges (expire_time);

CREATE TABLE signing_keys (
    kid           text        PRIMARY KEY,
    private_key   bytea       NOT NULL,
    activate_time timestamptz NOT NULL,
    retire_time   timestamptz NOT NULL
);
COMMENT ON TABLE signing_keys IS
    'Ed25519 keys that sign access tokens. A key is published before it is used and until the last '
    'token that it signed has expired.';

CREATE TABLE roles (
    principal  text        NOT NULL,
    role       text        NOT NULL,
    granted_by text        NOT NULL,
    grant_time timestamptz NOT NULL DEFAULT kit_now(),
    PRIMARY KEY (principal, role)
);

CREATE TABLE user_statuses (
    principal   text        PRIMARY KEY,
    status      smallint    NOT NULL,
    change_time timestamptz NOT NULL DEFAULT kit_now()
);
COMMENT ON TABLE user_statuses IS
    'Users who are or were suspended or banned; icto.identity.v1.UserStatus. Others are active.';
CREATE INDEX user_statuses_time ON user_statuses (change_time) WHERE status <> 1;

CREATE TABLE bootstrap_keys (
    key_sha256  bytea       PRIMARY KEY,
    issue_time  timestamptz NOT NULL DEFAULT kit_now(),
    redeem_time timestamptz,
    redeemed_by text
);
