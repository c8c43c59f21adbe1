-- Tables that every service has, in its own schema: answers kept for repeated requests, the
-- outbox, and leases. Installed before the service's own schema.sql.

-- Passes, or ends the statement with a reason that the kit turns into an error. For conditions that
-- must hold when a row is written, in statements that are one round trip.
CREATE FUNCTION kit_require(holds boolean, reason text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF holds THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'KT001', MESSAGE = reason;
END $$;

CREATE TABLE kit_answers (
    principal   text        NOT NULL,
    method      text        NOT NULL,
    request_id  text        NOT NULL,
    body_hash   bytea       NOT NULL,
    answer      bytea,
    create_time timestamptz NOT NULL DEFAULT kit_now(),
    PRIMARY KEY (principal, method, request_id)
);
COMMENT ON TABLE kit_answers IS
    'The answer to each mutation, committed with its effect and kept for 24 hours.';
CREATE INDEX kit_answers_age ON kit_answers (create_time);

CREATE TABLE kit_outbox (
    position    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event       bytea       NOT NULL,
    create_time timestamptz NOT NULL DEFAULT kit_now()
);
COMMENT ON TABLE kit_outbox IS
    'Events (icto.events.v1.Event) not yet handed on, committed with the act that they tell of.';

CREATE TABLE kit_leases (
    name        text        PRIMARY KEY,
    holder      text        NOT NULL,
    expire_time timestamptz NOT NULL
);
COMMENT ON TABLE kit_leases IS
    'Work that one replica at a time does. A frozen holder loses it when it expires.';
