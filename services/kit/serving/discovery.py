"""Finds a service's code by its mesh name: no list of services is kept anywhere.

The mesh service `ledger` is the module `services.ledger.service`; a service that is a top-level
room of the house, as the gateway, is `gateway.service`. The module's `compose(kit)` makes the
handlers of each proto service that it serves.
"""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType

from contract.service import Service
from schema_setup.packages import package_of
from services.kit.kit import Kit
from services.kit.serving.composition import Serving


class IncompleteServiceError(Exception):
    """A service lacks a handler that its proto declares. The message names it."""


def module_of(mesh_name: str) -> ModuleType:
    """The module with the handlers of a mesh service."""
    return importlib.import_module(f"{package_of(mesh_name)}.service")


def load_all(package: str) -> None:
    """Loads every module of a package, and so whatever those need."""
    folders = importlib.import_module(package).__path__
    for found in pkgutil.walk_packages(folders, f"{package}."):
        importlib.import_module(found.name)


def compose(service: Service, kit: Kit) -> Serving:
    """A mesh service made of its parts.

    Raises:
        IncompleteServiceError: it has no `compose`, or a method has no handler in it.
    """
    module = module_of(service.mesh_name)
    make: Callable[[Kit], Serving] | None = getattr(module, "compose", None)
    if make is None:
        raise IncompleteServiceError(f"{module.__name__} has no function compose(kit)")
    serving = make(kit)
    missing = [m.full_name for m in service.methods if m.path not in serving.handlers]
    if missing:
        raise IncompleteServiceError(f"{module.__name__} has no handler of {', '.join(missing)}")
    return serving
