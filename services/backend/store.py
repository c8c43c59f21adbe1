"""SQL of the backend. One function an operation."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from services.backend.domain import (
    TOO_MANY_TODAY,
    TOO_MANY_TOKENS,
    TOO_SOON,
    Deployment,
    Limits,
    Ordered,
    Profile,
    Project,
)
from services.kit.journal.model import PipelineState
from services.kit.storage import Connection, Database, Statement
from services.kit.storage.database import requirement
from services.kit.storage.statement import numbers

_ENDED_UNPAID: Final = numbers((PipelineState.FAILED, PipelineState.CANCELLED))
_PROFILE_COLUMNS: Final = """
    principal, display_name, email, website, deployment_count, create_time, update_time
"""
_GET_PROFILE: Final = f"SELECT {_PROFILE_COLUMNS} FROM users WHERE principal = $1"
_ENSURE_USER: Final = "INSERT INTO users (principal) VALUES ($1) ON CONFLICT DO NOTHING"
_UPDATE_PROFILE: Final = f"""
UPDATE users SET display_name = coalesce($2, display_name), email = coalesce($3, email),
    website = coalesce($4, website), update_time = kit_now()
WHERE principal = $1 RETURNING {_PROFILE_COLUMNS}
"""
# The limits are decided on the user's own row, which one transaction at a time can change.
# Where there is no cooldown, an order that began before another one was committed is in time, too.
_COUNT_DEPLOYMENT: Final = """
INSERT INTO users (principal, deployment_count, token_count, day_start, day_count,
    last_deployment)
VALUES ($1, 1, 1, kit_now(), 1, kit_now())
ON CONFLICT (principal) DO UPDATE SET deployment_count = users.deployment_count + 1,
    token_count = users.token_count + 1,
    day_start = CASE WHEN users.day_start > kit_now() - interval '24 hours'
        THEN users.day_start ELSE kit_now() END,
    day_count = CASE WHEN users.day_start > kit_now() - interval '24 hours'
        THEN users.day_count + 1 ELSE 1 END,
    last_deployment = kit_now()
WHERE kit_require(users.token_count < $2, $5)
  AND kit_require(users.day_count < $3 OR users.day_start <= kit_now() - interval '24 hours', $6)
  AND kit_require($4::interval = interval '0' OR users.last_deployment IS NULL
    OR users.last_deployment <= kit_now() - $4::interval, $7)
"""
_ORDERED: Final = """
SELECT kit_now(), token_count, day_start, day_count, last_deployment
FROM users WHERE principal = $1
"""
_RELEASE_TOKENS: Final = """
UPDATE users SET token_count = token_count - undelivered.count
FROM (SELECT owner, count(*) FROM unnest($1::text[]) AS owner GROUP BY owner) AS undelivered
WHERE principal = undelivered.owner
"""
_COUNT_PROJECTS: Final = "SELECT count(*) FROM projects WHERE owner = $1"
_PROJECT_COLUMNS: Final = """
    id, owner, display_name, description, token, deployment, revision, create_time, update_time
"""
_ADD_PROJECT: Final = f"""
INSERT INTO projects (id, owner, display_name, description) VALUES ($1, $2, $3, $4)
RETURNING {_PROJECT_COLUMNS}
"""
_GET_PROJECT: Final = f"SELECT {_PROJECT_COLUMNS} FROM projects WHERE id = $1"
_LOCK_PROJECT: Final = f"{_GET_PROJECT} FOR UPDATE"
_LIST_PROJECTS: Final = f"""
SELECT {_PROJECT_COLUMNS} FROM projects
WHERE owner = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""
_UPDATE_PROJECT: Final = f"""
UPDATE projects SET display_name = coalesce($2, display_name),
    description = coalesce($3, description), revision = revision + 1, update_time = kit_now()
WHERE id = $1 RETURNING {_PROJECT_COLUMNS}
"""
_OCCUPY_PROJECT: Final = """
UPDATE projects SET deployment = $2, revision = revision + 1, update_time = kit_now()
WHERE id = $1
"""
_SETTLE_PROJECTS: Final = """
UPDATE projects SET token = settled.token,
    deployment = CASE WHEN settled.token = '' THEN NULL ELSE deployment END,
    revision = revision + 1, update_time = kit_now()
FROM unnest($1::uuid[], $2::text[]) AS settled (settled_id, token)
WHERE id = settled_id
"""
_DEPLOYMENT_COLUMNS: Final = """
    id, owner, project_id, spec, trace_id, quote, cost, payment, token, create_time
"""
_ADD_DEPLOYMENT: Final = """
INSERT INTO deployments (id, owner, project_id, spec, trace_id, quote, cost)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_GET_DEPLOYMENT: Final = f"SELECT {_DEPLOYMENT_COLUMNS} FROM deployments WHERE id = $1"
_GET_DEPLOYMENTS: Final = f"""
SELECT {_DEPLOYMENT_COLUMNS} FROM deployments WHERE id = ANY ($1::uuid[])
"""
_LIST_DEPLOYMENTS: Final = f"""
SELECT {_DEPLOYMENT_COLUMNS} FROM deployments
WHERE owner = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""
_SETTLE_DEPLOYMENTS: Final = """
UPDATE deployments SET token = settled.token, payment = settled.payment
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS settled (settled_id, token, payment)
WHERE id = settled_id
RETURNING id, owner, project_id, spec, trace_id, quote, cost, deployments.payment,
    deployments.token, create_time
"""
# Nothing was charged, so nothing was delivered, and no other launch can draw on them.
_FORGET_LAUNCHES: Final = f"""
WITH gone AS (
    DELETE FROM launches WHERE id = ANY (ARRAY(
        SELECT launches.id FROM launches JOIN kit_pipelines USING (id)
        WHERE ended AND payment = '' AND quote <> '' AND drawn_by IS NULL AND withdrawal IS NULL
          AND state IN ({_ENDED_UNPAID})
          AND update_time < kit_now() - $1::interval
          AND NOT EXISTS (SELECT FROM launches AS later WHERE later.earlier = launches.id)
        LIMIT 100 FOR UPDATE OF launches SKIP LOCKED))
    RETURNING id)
DELETE FROM kit_pipelines USING gone WHERE kit_pipelines.id = gone.id
"""
_FORGET_DEPLOYMENTS: Final = f"""
WITH gone AS (
    DELETE FROM deployments WHERE id = ANY (ARRAY(
        SELECT deployments.id FROM deployments JOIN kit_pipelines USING (id)
        WHERE payment = '' AND token = '' AND quote <> ''
          AND state IN ({_ENDED_UNPAID})
          AND update_time < kit_now() - $1::interval
        LIMIT 100 FOR UPDATE OF deployments SKIP LOCKED))
    RETURNING id)
DELETE FROM kit_pipelines USING gone WHERE kit_pipelines.id = gone.id
"""


async def forget_unpaid(connection: Connection, period: timedelta) -> int:
    """Drops some orders that ended so long ago without having been charged; how many."""
    tags = [
        await connection.execute(statement, period)
        for statement in (_FORGET_LAUNCHES, _FORGET_DEPLOYMENTS)
    ]
    return sum(int(tag.rpartition(" ")[2]) for tag in tags)


async def get_profile(database: Database, principal: str) -> Profile | None:
    """A user's profile, if they ever wrote anything."""
    row = await database.fetchrow(_GET_PROFILE, principal)
    return Profile(*row) if row else None


async def update_profile(
    connection: Connection, principal: str, changes: dict[str, str]
) -> Profile:
    """Changes a profile, made now if this is the user's first write."""
    await connection.execute(_ENSURE_USER, principal)
    row: Any = await connection.fetchrow(
        _UPDATE_PROFILE,
        principal,
        changes.get("display_name"),
        changes.get("email"),
        changes.get("website"),
    )
    return Profile(*row)


def counted_deployment(principal: str, limits: Limits) -> Statement:
    """Counts a deployment and its token for its user, and refuses one beyond the limits."""
    refusals = (TOO_MANY_TOKENS, TOO_MANY_TODAY, TOO_SOON)
    return Statement(
        _COUNT_DEPLOYMENT,
        (
            principal,
            limits.tokens,
            limits.per_day,
            limits.cooldown,
            *(requirement(*refusal) for refusal in refusals),
        ),
    )


async def ordered(database: Database, principal: str) -> Ordered | None:
    """What a user has ordered by now; None for one who never wrote anything."""
    row = await database.fetchrow(_ORDERED, principal)
    return Ordered(*row) if row else None


async def release_tokens(connection: Connection, owners: Sequence[str]) -> None:
    """Counts tokens off that were not delivered."""
    if owners:
        await connection.execute(_RELEASE_TOKENS, list(owners))


async def count_projects(connection: Connection, owner: str) -> int:
    """How many projects a user has. The user's row is locked until the transaction ends."""
    await connection.execute(_ENSURE_USER, owner)
    await connection.execute("SELECT FROM users WHERE principal = $1 FOR UPDATE", owner)
    count: int = await connection.fetchval(_COUNT_PROJECTS, owner)
    return count


async def add_project(connection: Connection, project: Project) -> Project:
    """Adds a project."""
    row: Any = await connection.fetchrow(
        _ADD_PROJECT, project.id, project.owner, project.display_name, project.description
    )
    return Project(*row)


async def get_project(database: Database, project_id: UUID) -> Project | None:
    """One project."""
    row = await database.fetchrow(_GET_PROJECT, project_id)
    return Project(*row) if row else None


async def lock_project(connection: Connection, project_id: UUID) -> Project | None:
    """One project, locked until the transaction ends."""
    row = await connection.fetchrow(_LOCK_PROJECT, project_id)
    return Project(*row) if row else None


async def list_projects(
    database: Database, owner: str, before: UUID | None, limit: int
) -> list[Project]:
    """Projects of an owner, newest first."""
    return [Project(*row) for row in await database.fetch(_LIST_PROJECTS, owner, before, limit)]


async def update_project(
    connection: Connection, project_id: UUID, changes: dict[str, str]
) -> Project:
    """Changes a project."""
    row: Any = await connection.fetchrow(
        _UPDATE_PROJECT, project_id, changes.get("display_name"), changes.get("description")
    )
    return Project(*row)


async def occupy_project(connection: Connection, project_id: UUID, deployment: UUID) -> None:
    """Links a deployment that is under way."""
    await connection.execute(_OCCUPY_PROJECT, project_id, deployment)


async def settle_projects(connection: Connection, tokens: Mapping[UUID, str]) -> None:
    """Links the tokens that were delivered; a project without one is free for another try."""
    if tokens:
        await connection.execute(_SETTLE_PROJECTS, list(tokens), list(tokens.values()))


def added_deployment(deployment: Deployment) -> Statement:
    """Adds a deployment."""
    return Statement(
        _ADD_DEPLOYMENT,
        (
            deployment.id,
            deployment.owner,
            deployment.project_id,
            deployment.spec,
            deployment.trace_id,
            deployment.quote,
            deployment.cost,
        ),
    )


async def get_deployment(database: Database | Connection, deployment_id: UUID) -> Deployment | None:
    """One deployment."""
    row = await database.fetchrow(_GET_DEPLOYMENT, deployment_id)
    return Deployment(**row) if row else None


async def get_deployments(
    database: Database, deployment_ids: Sequence[UUID]
) -> dict[UUID, Deployment]:
    """Deployments by id."""
    rows = await database.fetch(_GET_DEPLOYMENTS, list(deployment_ids))
    return {row["id"]: Deployment(*row) for row in rows}


async def list_deployments(
    database: Database, owner: str, before: UUID | None, limit: int
) -> list[Deployment]:
    """Deployments of an owner, newest first."""
    rows = await database.fetch(_LIST_DEPLOYMENTS, owner, before, limit)
    return [Deployment(**row) for row in rows]


async def settle_deployments(
    connection: Connection, outcomes: Mapping[UUID, tuple[str, str]]
) -> dict[UUID, Deployment]:
    """Records what came of deployments: token and payment of each, "" for none."""
    rows = await connection.fetch(
        _SETTLE_DEPLOYMENTS,
        list(outcomes),
        [token for token, _ in outcomes.values()],
        [payment for _, payment in outcomes.values()],
    )
    return {row["id"]: Deployment(**row) for row in rows}
