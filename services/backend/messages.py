"""Between the backend's values and its messages."""

from typing import assert_never

from contract import ids
from icto.backend.v1 import deployments_pb2, projects_pb2, users_pb2
from icto.token.v1 import token_pb2
from services.backend.domain import Deployment, Profile, Project
from services.kit.journal.model import Definition, PipelineState, Run, StepRecord

States = deployments_pb2.DeploymentState
StepStates = deployments_pb2.StepState


def profile_message(profile: Profile) -> users_pb2.Profile:
    """A profile as its message."""
    message = users_pb2.Profile(
        name=f"users/{profile.principal}",
        display_name=profile.display_name,
        email=profile.email,
        website=profile.website,
        deployment_count=profile.deployment_count,
    )
    if profile.create_time and profile.update_time:
        message.create_time.FromDatetime(profile.create_time)
        message.update_time.FromDatetime(profile.update_time)
    return message


def project_state(project: Project) -> "projects_pb2.ProjectState.ValueType":
    """How far a project is."""
    if project.token:
        return projects_pb2.PROJECT_STATE_COMPLETED
    if project.deployment:
        return projects_pb2.PROJECT_STATE_IN_PROGRESS
    return projects_pb2.PROJECT_STATE_DRAFT


def project_message(project: Project) -> projects_pb2.Project:
    """A project as its message."""
    message = projects_pb2.Project(
        name=ids.resource_name("projects", project.id),
        owner=project.owner,
        display_name=project.display_name,
        description=project.description,
        state=project_state(project),
        token=project.token,
        etag=etag(project),
    )
    if project.create_time and project.update_time:
        message.create_time.FromDatetime(project.create_time)
        message.update_time.FromDatetime(project.update_time)
    return message


def etag(project: Project) -> str:
    """Names one revision of a project."""
    return f'"{project.revision}"'


def deployment_message(
    deployment: Deployment, definition: Definition, run: Run | None
) -> deployments_pb2.Deployment:
    """A deployment with the state and steps of its pipeline; `run` is None when it just began."""
    message = deployments_pb2.Deployment(
        name=ids.resource_name("deployments", deployment.id),
        owner=deployment.owner,
        project=""
        if deployment.project_id is None
        else ids.resource_name("projects", deployment.project_id),
        spec=token_pb2.TokenSpec.FromString(deployment.spec),
        state=States.DEPLOYMENT_STATE_SUCCEEDED if deployment.token else _state(run),
        steps=_steps(definition, run),
        token=deployment.token,
        trace_id=deployment.trace_id,
        error=_error(run),
        quote=deployment.quote,
        payment=deployment.payment or _payment(run),
        cost=deployment.cost,
        parked_reason=run.parked_reason if run else "",
    )
    message.create_time.FromDatetime(deployment.accept_time)
    message.update_time.FromDatetime(run.update_time if run else deployment.accept_time)
    return message


def _payment(run: Run | None) -> str:
    """The payment of a deployment that has not ended, once it is charged."""
    charge = run.steps.get("charge") if run else None
    return charge.result.decode() if charge else ""


def _state(run: Run | None) -> "deployments_pb2.DeploymentState.ValueType":
    if run is None or (run.state is PipelineState.RUNNING and not run.steps and not run.leased):
        return States.DEPLOYMENT_STATE_PENDING
    match run.state:
        case PipelineState.QUEUED:
            return States.DEPLOYMENT_STATE_PENDING
        case PipelineState.RUNNING | PipelineState.PARKED:
            return States.DEPLOYMENT_STATE_IN_PROGRESS
        case PipelineState.SUCCEEDED:
            return States.DEPLOYMENT_STATE_SUCCEEDED
        case PipelineState.FAILED:
            return States.DEPLOYMENT_STATE_FAILED
        case PipelineState.CANCELLED:
            return States.DEPLOYMENT_STATE_CANCELLED
        case _:
            assert_never(run.state)


def _steps(definition: Definition, run: Run | None) -> list[deployments_pb2.DeploymentStep]:
    records = run.steps if run else {}
    at_work = definition.at_work(run) if run else frozenset()
    return [
        _step(step.name, records.get(step.name), at_work=step.name in at_work)
        for step in definition.steps
    ]


def _step(name: str, record: StepRecord | None, *, at_work: bool) -> deployments_pb2.DeploymentStep:
    if record is None:
        state = StepStates.STEP_STATE_RUNNING if at_work else StepStates.STEP_STATE_PENDING
        return deployments_pb2.DeploymentStep(name=name, state=state)
    message = deployments_pb2.DeploymentStep(
        name=name,
        state=int(record.state),  # type: ignore[arg-type]  # the same numbers
        attempts=record.attempts,
        error=step_error(record),
    )
    message.start_time.FromDatetime(record.start_time)
    if record.state.finished:
        message.end_time.FromDatetime(record.end_time)
    return message


def step_error(record: StepRecord) -> deployments_pb2.DeploymentError | None:
    """What went wrong with a step, if anything did."""
    if not record.error_reason:
        return None
    return deployments_pb2.DeploymentError(
        reason=record.error_reason, message=record.error_message, service=record.error_service
    )


def _error(run: Run | None) -> deployments_pb2.DeploymentError | None:
    """The error of the first step that failed."""
    if run is None or run.state is not PipelineState.FAILED:
        return None
    failed = (step_error(r) for r in sorted(run.steps.values(), key=lambda r: r.end_time))
    return next((error for error in failed if error), None)
