-- The audit. Entries are added and never changed: triggers refuse anything else to whoever is not
-- the owner of the schema, and the hash chain shows what a superuser does.

CREATE TABLE entries (
    id            uuid        NOT NULL PRIMARY KEY,
    sequence      bigint      NOT NULL,
    event         bytea       NOT NULL,
    record_time   timestamptz NOT NULL,
    previous_hash bytea       NOT NULL,
    entry_hash    bytea       NOT NULL,
    event_time    timestamptz NOT NULL,
    source        text        NOT NULL,
    subject       text        NOT NULL,
    principal     text        NOT NULL,
    action        text        NOT NULL,
    operation     text        NOT NULL,
    status        smallint    NOT NULL,
    severity      smallint    NOT NULL,
    trace_id      text        NOT NULL
) PARTITION BY RANGE (id);
COMMENT ON TABLE entries IS
    'Partitioned by month: the ids are UUIDv7, so that a range of ids is a range of time.';
COMMENT ON COLUMN entries.event IS
    'icto.events.v1.Event. The columns after entry_hash are copies to search by; verified too.';
CREATE INDEX entries_sequence  ON entries (sequence);
CREATE INDEX entries_principal ON entries (principal, sequence);
CREATE INDEX entries_subject   ON entries (subject, sequence);
CREATE INDEX entries_operation ON entries (operation, sequence) WHERE operation <> '';
CREATE INDEX entries_trace     ON entries (trace_id, sequence) WHERE trace_id <> '';
CREATE TABLE entries_default PARTITION OF entries DEFAULT;

CREATE TABLE head (
    single     boolean PRIMARY KEY DEFAULT true CHECK (single),
    sequence   bigint  NOT NULL,
    entry_hash bytea   NOT NULL
);
COMMENT ON TABLE head IS 'Where the chain goes on; locked by whoever appends.';
INSERT INTO head (sequence, entry_hash) VALUES (0, '');

CREATE TABLE checkpoints (
    sequence   bigint      PRIMARY KEY,
    entry_hash bytea       NOT NULL,
    sign_time  timestamptz NOT NULL,
    signature  bytea       NOT NULL,
    public_key bytea       NOT NULL
);

CREATE TABLE dead_letters (
    id          uuid        PRIMARY KEY,
    source      text        NOT NULL,
    event       bytea       NOT NULL,
    reason      text        NOT NULL,
    create_time timestamptz NOT NULL
);
COMMENT ON TABLE dead_letters IS
    'Events that the audit refused for good, as they were written; kept until a person decides.';

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is append-only';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON entries
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The smallest UUIDv7 of a moment.
CREATE FUNCTION first_id(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0')
            || repeat('0', 20))::uuid
$$;

-- Makes the partitions of this month and the next two. Runs with the owner's rights.
CREATE FUNCTION ensure_partitions() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    month timestamptz := date_trunc('month', now(), 'UTC');
    name  text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('audit partitions'));
    FOR step IN 0..2 LOOP
        name := 'entries_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF entries FOR VALUES FROM (%L) TO (%L)',
                name, first_id(month), first_id(month + interval '1 month'));
        END IF;
        month := month + interval '1 month';
    END LOOP;
END $$;
SELECT ensure_partitions();
