"""Handlers of the backend, a module for each of its proto services."""

from services.backend.configuration import ConfigService
from services.backend.deployments import DeploymentService
from services.backend.launches import LaunchService
from services.backend.projects import ProjectService
from services.backend.system import SystemService
from services.backend.users import UserService

__all__ = [
    "ConfigService",
    "DeploymentService",
    "LaunchService",
    "ProjectService",
    "SystemService",
    "UserService",
]
