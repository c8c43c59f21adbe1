-- requires: services.kit.journal
-- Users, projects and deployments. A deployment's state and steps are its pipeline's, in the journal
-- under the same id.

CREATE TABLE users (
    principal        text        PRIMARY KEY,
    display_name     text        NOT NULL DEFAULT '',
    email            text        NOT NULL DEFAULT '',
    website          text        NOT NULL DEFAULT '',
    deployment_count int         NOT NULL DEFAULT 0,
    create_time      timestamptz NOT NULL DEFAULT kit_now(),
    update_time      timestamptz NOT NULL DEFAULT kit_now()
);

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
    trace_id    text        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT kit_now()
);
COMMENT ON COLUMN deployments.spec IS 'icto.token.v1.TokenSpec, complete.';
CREATE INDEX deployments_owner ON deployments (owner, id);
