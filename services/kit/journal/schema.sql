-- The journal of pipelines. A service that runs pipelines names this package in its schema.sql:
--     -- requires: services.kit.journal

CREATE TABLE kit_pipelines (
    id            uuid        PRIMARY KEY,
    definition    text        NOT NULL,
    version       int         NOT NULL,
    input         bytea       NOT NULL,
    traceparent   text        NOT NULL,
    state         smallint    NOT NULL,
    cancelled     boolean     NOT NULL DEFAULT false,
    epoch         bigint      NOT NULL DEFAULT 0,
    worker        text,
    lease_time    timestamptz,
    wake_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    idle_claims   int         NOT NULL DEFAULT 0,
    parked_reason text        NOT NULL DEFAULT '',
    sequence      bigint      NOT NULL DEFAULT 0,
    create_time   timestamptz NOT NULL DEFAULT kit_now(),
    update_time   timestamptz NOT NULL DEFAULT kit_now()
);
COMMENT ON COLUMN kit_pipelines.epoch IS
    'Grows with every claim. A write that carries an older one is refused: its worker lost the lease.';
COMMENT ON COLUMN kit_pipelines.wake_time IS
    'Not to be claimed before: a durable timer. By the real clock, as are leases.';
COMMENT ON COLUMN kit_pipelines.idle_claims IS
    'Claims since a step was last recorded. Too many of them, and the pipeline is parked as poison.';
CREATE INDEX kit_pipelines_due ON kit_pipelines (wake_time) WHERE state = 1;
COMMENT ON COLUMN kit_pipelines.sequence IS 'Number of its last change in kit_changes.';
CREATE INDEX kit_pipelines_queued ON kit_pipelines (definition, id) WHERE state = 6;
CREATE INDEX kit_pipelines_parked ON kit_pipelines (id) WHERE state = 5;

CREATE TABLE kit_steps (
    pipeline_id   uuid        NOT NULL REFERENCES kit_pipelines ON DELETE CASCADE,
    name          text        NOT NULL,
    state         smallint    NOT NULL,
    attempts      int         NOT NULL,
    result        bytea       NOT NULL,
    error_reason  text        NOT NULL,
    error_message text        NOT NULL,
    start_time    timestamptz NOT NULL,
    end_time      timestamptz NOT NULL,
    replica       text        NOT NULL,
    PRIMARY KEY (pipeline_id, name)
);

CREATE TABLE kit_changes (
    pipeline_id   uuid        NOT NULL REFERENCES kit_pipelines ON DELETE CASCADE,
    sequence      bigint      NOT NULL,
    step          text        NOT NULL,
    state         smallint    NOT NULL,
    attempts      int         NOT NULL,
    error_reason  text        NOT NULL,
    error_message text        NOT NULL,
    start_time    timestamptz,
    end_time      timestamptz,
    replica       text        NOT NULL,
    change_time   timestamptz NOT NULL DEFAULT kit_now(),
    PRIMARY KEY (pipeline_id, sequence)
);
COMMENT ON TABLE kit_changes IS
    'What watchers follow, of pipelines whose journal keeps it: a step as it was recorded, or, with '
    'an empty step, the state of the pipeline itself.';
