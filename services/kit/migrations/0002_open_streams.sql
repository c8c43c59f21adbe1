-- Streams that callers from outside hold open: counted here, for all replicas of a service together.
-- By the server's own time: a lease is about who lives now.

CREATE TABLE kit_stream_holders (
    replica    uuid        PRIMARY KEY,
    renew_time timestamptz NOT NULL
);
COMMENT ON TABLE kit_stream_holders IS
    'Replicas that serve streams. One that does not renew has died, and holds none.';

CREATE TABLE kit_streams (
    id        uuid PRIMARY KEY,
    replica   uuid NOT NULL REFERENCES kit_stream_holders ON DELETE CASCADE,
    principal text NOT NULL,
    address   text NOT NULL
);
COMMENT ON COLUMN kit_streams.principal IS 'Empty for who has not signed in.';
CREATE INDEX kit_streams_principal ON kit_streams (principal) WHERE principal <> '';
CREATE INDEX kit_streams_address ON kit_streams (address);

CREATE FUNCTION kit_live_streams(silence interval)
RETURNS TABLE (principal text, address text) LANGUAGE sql STABLE AS $$
    SELECT principal, address FROM kit_streams JOIN kit_stream_holders USING (replica)
    WHERE renew_time > now() - silence
$$;

-- Writes an open stream down, unless its principal or its address holds enough: '' when it did, else
-- which of them. One at a time for each, addresses first, so that no two wait for one another.
CREATE FUNCTION kit_open_stream(
    stream uuid, holder uuid, who text, place text, most_of_who int, most_of_place int,
    silence interval
) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || ' address ' || place, 0));
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || ' principal ' || who, 0))
        WHERE who <> '';
    IF (SELECT count(*) >= most_of_place FROM kit_live_streams(silence) AS live
        WHERE live.address = place) THEN
        RETURN 'address';
    END IF;
    IF who <> '' AND (SELECT count(*) >= most_of_who FROM kit_live_streams(silence) AS live
        WHERE live.principal = who) THEN
        RETURN 'principal';
    END IF;
    INSERT INTO kit_stream_holders VALUES (holder, clock_timestamp())
        ON CONFLICT (replica) DO UPDATE SET renew_time = excluded.renew_time;
    INSERT INTO kit_streams VALUES (stream, holder, who, place);
    RETURN '';
END $$;
