-- requires: services.kit.payouts
-- Users, projects and deployments. A deployment's state and steps are its pipeline's, in the journal
-- under the same id.

CREATE TABLE users (
    principal        text        PRIMARY KEY,
    display_name     text        NOT NULL DEFAULT '',
    email            text        NOT NULL DEFAULT '',
    website          text        NOT NULL DEFAULT '',
    deployment_count int         NOT NULL DEFAULT 0,
    token_count      int         NOT NULL DEFAULT 0,
    day_start        timestamptz NOT NULL DEFAULT kit_now(),
    day_count        int         NOT NULL DEFAULT 0,
    last_deployment  timestamptz,
    create_time      timestamptz NOT NULL DEFAULT kit_now(),
    update_time      timestamptz NOT NULL DEFAULT kit_now()
);

COMMENT ON COLUMN users.token_count IS
    'Tokens delivered and on their way: a limit that only the delivered counted for could be passed.';
COMMENT ON COLUMN users.day_start IS
    'When the 24 hours began in which day_count deployments were asked for.';

CREATE TABLE projects (
    id           uuid        PRIMARY KEY,
    owner        text        NOT NULL,
    display_name text        NOT NULL,
    description  text        NOT NULL,
    token        text        NOT NULL DEFAULT '',
    deployment   uuid,
    revision     bigint      NOT NULL DEFAULT 1,
    create_time  timestamptz NOT NULL DEFAULT kit_now(),
    update_time  timestamptz NOT NULL DEFAULT kit_now()
);
COMMENT ON COLUMN projects.deployment IS 'The deployment under way for it, or that delivered its token.';
CREATE INDEX projects_owner ON projects (owner, id);

CREATE TABLE deployments (
    id          uuid        PRIMARY KEY,
    owner       text        NOT NULL,
    project_id  uuid,
    spec        bytea       NOT NULL,
    token       text        NOT NULL DEFAULT '',
    quote       text        NOT NULL,
    cost        text        NOT NULL,
    payment     text        NOT NULL DEFAULT '',
    trace_id    text        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT kit_now()
);
COMMENT ON COLUMN deployments.spec IS 'icto.token.v1.TokenSpec, complete.';
CREATE INDEX deployments_owner ON deployments (owner, id);

CREATE TABLE config_revisions (
    revision      bigint      PRIMARY KEY,
    config        bytea       NOT NULL,
    changed_by    text        NOT NULL,
    justification text        NOT NULL,
    change_time   timestamptz NOT NULL DEFAULT kit_now()
);
COMMENT ON TABLE config_revisions IS
    'icto.config.v1.SystemConfig, every one of them; the newest is in force.';

CREATE TABLE release_requests (
    principal    text        PRIMARY KEY,
    request_time timestamptz NOT NULL DEFAULT kit_now()
);
COMMENT ON TABLE release_requests IS 'Who asked for the end of an emergency stop.';

CREATE TABLE launches (
    id          uuid          PRIMARY KEY,
    owner       text          NOT NULL,
    project_id  uuid,
    spec        bytea         NOT NULL,
    shape       bytea         NOT NULL,
    earlier     uuid          REFERENCES launches,
    quote       text          NOT NULL,
    cost        text          NOT NULL,
    payment     text          NOT NULL DEFAULT '',
    token       text          NOT NULL DEFAULT '',
    ended       boolean       NOT NULL DEFAULT false,
    drawn_by    uuid,
    withdrawal  uuid,
    withdrawn   numeric(39,0) NOT NULL DEFAULT 0,
    trace_id    text          NOT NULL,
    create_time timestamptz   NOT NULL DEFAULT kit_now()
);
COMMENT ON COLUMN launches.spec IS 'icto.backend.v1.LaunchSpec, complete.';
COMMENT ON COLUMN launches.shape IS 'What its pipeline was begun with: which steps it has.';
COMMENT ON COLUMN launches.earlier IS 'The launch out of whose escrow its tokens come.';
COMMENT ON COLUMN launches.drawn_by IS 'The open launch that takes tokens out of its escrow.';
COMMENT ON COLUMN launches.withdrawal IS 'The payout under way to its owner, in kit_payouts.';
CREATE INDEX launches_owner ON launches (owner, id);
CREATE UNIQUE INDEX launches_withdrawal ON launches (withdrawal) WHERE withdrawal IS NOT NULL;

CREATE TABLE launch_transfers (
    launch_id     uuid   NOT NULL REFERENCES launches,
    step          text   NOT NULL,
    created_at_ns bigint NOT NULL,
    PRIMARY KEY (launch_id, step)
);
COMMENT ON TABLE launch_transfers IS
    'Fresh deduplication times of transfers that were not made within the window of the first.';
