"""icto.backend.v1.ProjectService."""

from typing_extensions import override

from contract import ids
from icto.backend.v1 import projects_pb2 as pb
from icto.backend.v1.projects_handlers import ProjectServiceHandlers
from services.backend import domain, store
from services.backend.domain import Project
from services.backend.messages import etag, project_message
from services.kit.answering import paging
from services.kit.serving import Call, Kit


class ProjectService(ProjectServiceHandlers[Call]):
    """Projects of creators."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._platform = kit.platform

    @override
    async def CreateProject(self, request: pb.CreateProjectRequest, call: Call) -> pb.Project:
        """Registers a project."""
        project = Project(
            id=ids.new_id(call.principal),
            owner=call.principal,
            display_name=domain.project_name(request.project.display_name),
            description=request.project.description,
        )
        limit = self._platform.config.limits.max_projects_per_user
        async with call.transaction() as tx:
            domain.check_project_count(await store.count_projects(tx, call.principal), limit)
            response = project_message(await store.add_project(tx, project))
            return tx.answer(response, subject=response.name)

    @override
    async def GetProject(self, request: pb.GetProjectRequest, call: Call) -> pb.Project:
        """One project."""
        project_id = ids.parse_name("projects", request.name)
        project = await store.get_project(self._database, project_id)
        return project_message(call.owned(project, "project", request.name))

    @override
    async def ListProjects(
        self, request: pb.ListProjectsRequest, call: Call
    ) -> pb.ListProjectsResponse:
        """The caller's projects, newest first."""
        asked = paging.by_id(request)
        rows = await store.list_projects(self._database, call.principal, asked.after, asked.limit)
        page, token = asked.page(rows, map(project_message, rows))
        return pb.ListProjectsResponse(projects=page, next_page_token=token)

    @override
    async def UpdateProject(self, request: pb.UpdateProjectRequest, call: Call) -> pb.Project:
        """Changes a project."""
        project_id = ids.parse_name("projects", request.project.name, "project.name")
        present = {
            name: getattr(request.project, name)
            for name in ("display_name", "description")
            if request.project.HasField(name)
        }
        changes = domain.project_changes(present, list(request.update_mask.paths))
        async with call.transaction() as tx:
            row = await store.lock_project(tx, project_id)
            project = call.owned(row, "project", request.project.name)
            call.check_etag(etag(project))
            domain.check_etag(request.project.etag, etag(project))
            response = project_message(await store.update_project(tx, project_id, changes))
            return tx.answer(response, subject=response.name)
