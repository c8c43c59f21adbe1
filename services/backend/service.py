"""The backend: a module for each of its proto services, composed here."""

from icto.backend.v1.deployments_handlers import deployment_service
from icto.backend.v1.launches_handlers import launch_service
from icto.backend.v1.projects_handlers import project_service
from icto.backend.v1.system_handlers import system_service
from icto.backend.v1.users_handlers import user_service
from icto.config.v1.config_handlers import config_service
from services.backend.configuration import ConfigService
from services.backend.deployments import DeploymentService
from services.backend.launches.handlers import LaunchService
from services.backend.projects import ProjectService
from services.backend.system import SystemService
from services.backend.users import UserService
from services.kit.serving import Kit, Serving


def compose(kit: Kit) -> Serving:
    """The service of its parts."""
    config, deployments, launches = ConfigService(kit), DeploymentService(kit), LaunchService(kit)
    return Serving(
        {
            **config_service(config),
            **deployment_service(deployments),
            **launch_service(launches),
            **project_service(ProjectService(kit)),
            **system_service(SystemService(kit)),
            **user_service(UserService(kit)),
        },
        [config.run, deployments.run, launches.run],
    )
