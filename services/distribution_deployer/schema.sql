-- requires: services.kit.payouts
-- Distributions, their categories, what is allocated to whom, and everything that left them.
--
-- A claim changes the rows of its participant alone. What would have to be summed on the distribution
-- is summed when it is asked for; what a claim must not overlap with (a pause, a cancellation) takes
-- the distribution's advisory lock, which claims share. So nothing refers to the distribution's row
-- by a foreign key where claims write: that would have them queue for it.

CREATE TABLE distributions (
    id                uuid          PRIMARY KEY,
    operation         text          NOT NULL UNIQUE,
    payment           text          NOT NULL DEFAULT '',
    owner             text          NOT NULL,
    ledger            text          NOT NULL,
    escrow_owner      text          NOT NULL,
    escrow_subaccount bytea         NOT NULL,
    spec              bytea         NOT NULL,
    fingerprint       bytea         NOT NULL,
    public            boolean       NOT NULL,
    total             numeric(39,0) NOT NULL CHECK (total >= 0),
    state             smallint      NOT NULL,
    create_time       timestamptz   NOT NULL DEFAULT kit_now(),
    funding_deadline  timestamptz   NOT NULL DEFAULT kit_now(),
    activate_time     timestamptz,
    start_time        timestamptz,
    end_time          timestamptz,
    claim_deadline    timestamptz,
    cancel_time       timestamptz,
    closed            boolean       NOT NULL DEFAULT false,
    checks            int           NOT NULL DEFAULT 0,
    next_time         timestamptz
);
COMMENT ON COLUMN distributions.spec IS
    'icto.distribution.v1.DistributionSpec with every default, without the names on its whitelists.';
COMMENT ON COLUMN distributions.fingerprint IS 'Hash of all that CreateDistribution was asked for.';
COMMENT ON COLUMN distributions.state IS
    'icto.distribution.v1.DistributionState. An operation that was given up before anybody heard of '
    'it has a row that says so and nothing else: a tombstone.';
COMMENT ON COLUMN distributions.next_time IS
    'When something has to happen that nobody asks for (F-46). Empty when nothing does.';
COMMENT ON COLUMN distributions.closed IS
    'Its claim deadline has passed, and what nobody claimed went back.';
CREATE INDEX distributions_owner ON distributions (owner, id);
CREATE INDEX distributions_public ON distributions (id) WHERE public AND state IN (2, 3, 4, 5);
CREATE INDEX distributions_ledger ON distributions (ledger, id);
CREATE INDEX distributions_next ON distributions (next_time) WHERE next_time IS NOT NULL;

CREATE TABLE distribution_payments (
    payment text PRIMARY KEY,
    work    text NOT NULL
);
COMMENT ON TABLE distribution_payments IS
    'Payments that were consumed, and by which launch: its steps share one, others may not (F-19).';

CREATE TABLE categories (
    distribution_id uuid          NOT NULL REFERENCES distributions,
    id              int           NOT NULL,
    amount          numeric(39,0) NOT NULL CHECK (amount > 0),
    seats           int,
    registered      int           NOT NULL DEFAULT 0,
    reserved        numeric(39,0) NOT NULL DEFAULT 0,
    paused          boolean       NOT NULL DEFAULT false,
    list_id         uuid,
    root            bytea,
    PRIMARY KEY (distribution_id, id),
    CHECK (reserved <= amount AND registered <= coalesce(seats, 0))
);
COMMENT ON COLUMN categories.reserved IS 'Of a pool: what those who registered were promised (F-40).';
CREATE INDEX categories_list ON categories (list_id) WHERE list_id IS NOT NULL;

CREATE TABLE allocations (
    distribution_id uuid          NOT NULL,
    principal       text          NOT NULL,
    category_id     int           NOT NULL,
    amount          numeric(39,0) NOT NULL CHECK (amount > 0),
    claimed         numeric(39,0) NOT NULL DEFAULT 0 CHECK (claimed BETWEEN 0 AND amount),
    closed          boolean       NOT NULL DEFAULT false,
    create_time     timestamptz   NOT NULL DEFAULT kit_now(),
    PRIMARY KEY (distribution_id, principal, category_id)
);
COMMENT ON TABLE allocations IS
    'What of a category is whose. The recipients of a list have theirs from their first claim on.';
COMMENT ON COLUMN allocations.closed IS 'It was unlocked early.';
CREATE INDEX allocations_principal ON allocations (principal, distribution_id);

CREATE TABLE disbursements (
    id              uuid          PRIMARY KEY,
    distribution_id uuid          NOT NULL,
    kind            smallint      NOT NULL,
    principal       text          NOT NULL,
    gross           numeric(39,0) NOT NULL,
    fee             numeric(39,0) NOT NULL CHECK (fee >= 0 AND fee < gross),
    penalty         numeric(39,0) NOT NULL DEFAULT 0,
    category_ids    int[]         NOT NULL DEFAULT '{}',
    amounts         numeric[]     NOT NULL DEFAULT '{}',
    finishes        boolean       NOT NULL DEFAULT false,
    block_index     bigint,
    create_time     timestamptz   NOT NULL DEFAULT kit_now(),
    pay_time        timestamptz
);
COMMENT ON TABLE disbursements IS
    'Everything that leaves a distribution. Each has the id of its payout, and a block once that was '
    'made.';
COMMENT ON COLUMN disbursements.kind IS
    '1 claim, 2 early unlock (both icto.distribution.v1.ClaimKind), 3 its penalty, 4 back to the '
    'owner, 5 back to the escrow.';
COMMENT ON COLUMN disbursements.finishes IS
    'It left the participant nothing more to claim, and nobody looked yet whether that was the last.';
CREATE INDEX disbursements_distribution ON disbursements (distribution_id, id);
CREATE INDEX disbursements_principal ON disbursements (distribution_id, principal, id);
CREATE INDEX disbursements_finishes ON disbursements (distribution_id) WHERE finishes;
-- While one is on its way, the balance of the account says nothing about what is left to return.
CREATE UNIQUE INDEX disbursements_return ON disbursements (distribution_id)
    WHERE kind = 5 AND block_index IS NULL;

CREATE TABLE recipient_lists (
    id              uuid          PRIMARY KEY,
    owner           text          NOT NULL,
    category_id     int           NOT NULL,
    state           smallint      NOT NULL DEFAULT 1,
    page_count      int           NOT NULL DEFAULT 0,
    recipient_count int           NOT NULL DEFAULT 0,
    total           numeric(39,0) NOT NULL DEFAULT 0,
    smallest        numeric(39,0) NOT NULL DEFAULT 0,
    root            bytea,
    distribution_id uuid,
    create_time     timestamptz   NOT NULL DEFAULT kit_now(),
    seal_time       timestamptz
);
COMMENT ON COLUMN recipient_lists.state IS 'icto.distribution.v1.RecipientListState.';
COMMENT ON COLUMN recipient_lists.smallest IS
    'Smallest amount of a recipient: whoever gets no more than the fee could never claim it (F-47).';
COMMENT ON COLUMN recipient_lists.distribution_id IS 'The one distribution that uses it.';
CREATE INDEX recipient_lists_owner ON recipient_lists (owner, id);

CREATE TABLE recipients (
    principal text          NOT NULL,
    list_id   uuid          NOT NULL,
    position  int           NOT NULL,
    amount    numeric(39,0) NOT NULL CHECK (amount > 0),
    PRIMARY KEY (principal, list_id)
);

CREATE TABLE recipient_pages (
    list_id uuid  NOT NULL REFERENCES recipient_lists,
    page    int   NOT NULL,
    leaves  bytea NOT NULL,
    PRIMARY KEY (list_id, page)
);
COMMENT ON TABLE recipient_pages IS 'Leaves of an open list, packed, page by page.';
ALTER TABLE recipient_pages ALTER COLUMN leaves SET STORAGE EXTERNAL;

CREATE TABLE recipient_trees (
    list_id uuid  NOT NULL REFERENCES recipient_lists,
    level   int   NOT NULL,
    chunk   int   NOT NULL,
    hashes  bytea NOT NULL,
    PRIMARY KEY (list_id, level, chunk)
);
COMMENT ON TABLE recipient_trees IS
    'Merkle trees of sealed lists: 1,024 hashes a row, so that a proof reads 20 slices of 20 rows and '
    'no replica keeps a tree in memory.';
-- Hashes do not compress; uncompressed, a slice is read without the rest.
ALTER TABLE recipient_trees ALTER COLUMN hashes SET STORAGE EXTERNAL;
